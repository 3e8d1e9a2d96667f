/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * BCC includes this file before all others, from what it takes for a kernel source tree. It holds what
 * BCC's own helpers.h expects of the kernel's headers and the C library's do not have.
 */
#ifndef FLOWML_KCONFIG_H
#define FLOWML_KCONFIG_H

#include <linux/types.h>
#include <linux/stddef.h>

#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define CONFIG_BPF_SYSCALL 1
#define NULL ((void *)0)

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
typedef __SIZE_TYPE__ size_t;
typedef __UINTPTR_TYPE__ uintptr_t;

#endif
