/* BCC brings its own copy of this header; two would clash. */
