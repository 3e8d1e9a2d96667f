/* The unit in which BCC counts the size of a ring. */
#define PAGE_SIZE 4096
