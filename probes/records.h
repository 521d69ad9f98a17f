/* Records shared by the probes and their loaders (autoprofile/trace/ebpf/records.py holds the same layouts and
 * refuses an object whose sizes differ). Only fixed-width types, no implicit padding.
 */
#ifndef AUTOPROFILE_RECORDS_H
#define AUTOPROFILE_RECORDS_H

#define ARCH_X86_64 0u
#define ARCH_I386 1u
#define ARCH_X32 2u
#define ARCHES 3

/* Syscall numbers that can have a layout; greater ones have no signature, hence no constrained arguments. */
#define LAYOUT_NRS 1024

/* A layout says what is kept of which argument: three bits each, from argument 0 up. */
#define ARG_NONE 0u
#define ARG_32 1u /* in the key, as the kernel reads it */
#define ARG_64 2u
#define ARG_SIZE_32 3u /* a size or an offset: beside the key, see `struct cell` */
#define ARG_SIZE_64 4u
#define ARG_POINTER 5u /* whether it was null, beside the key */
#define LAYOUT_KEYED 0x40000u /* some argument is in the key */
#define LAYOUT_NOTED 0x80000u /* some argument is noted beside it */
/* The call maps a file: argument 2 is prot, argument 4 the file descriptor. */
#define LAYOUT_MAPS_FILE 0x100000u
/* From bit 24 up: 1 + the number of the condition under which one of the arguments is read at all. */
#define LAYOUT_CONDITION 24
#define CONDITIONS 64
#define CONDITION_VALUES 32

#define THREAD_IN_CALL 1u   /* between sys_enter and sys_exit; counted in `slot` */
#define THREAD_SKIP_EXIT 2u /* the next sys_exit belongs to a call that is not ours: birth, adoption */
#define THREAD_NEWBORN 4u   /* not seen running yet: a thread of the parent's process, or a process */
#define THREAD_MAPS_CODE 8u /* in a call that maps a file's instructions */
#define THREAD_UNSURE 16u   /* may be in a call that began before it was followed */

#define THREAD_CELLS 1024  /* cells a thread remembers having counted for its process */
#define PROCESS_CELLS 4096 /* cells a process remembers; beyond, `seen` does */

#define CONFIG_CGROUP 1u      /* adopt whoever makes a call inside the cgroup */
#define CONFIG_MOUNT_SPACE 2u /* adopt whoever executes a program inside the mount namespace */
#define CONFIG_CHILD 4u       /* adopt the loader's own children when they execute a program */
#define CONFIG_CGROUP_EXEC 8u /* adopt whoever executes a program inside the cgroup */

struct layouts {
	__u32 of[4 * LAYOUT_NRS]; /* one arch is to spare, for a power of two */
};

/* Argument `argument` is read when `decider & mask` has one of `any_bits`, or is one of the values. */
struct condition {
	__u32 argument;
	__u32 decider;
	__u64 mask;
	__u64 any_bits;
	__u64 value_count;
	__u64 values[CONDITION_VALUES];
};

struct config {
	__u32 flags;
	__u32 cgroup_level;
	__u64 cgroup_id;
	__u32 mount_space;
	__u32 own_tgid; /* the tool itself is never adopted */
};

/* The map `plain` is keyed by the first eight bytes alone. */
struct cell_key {
	__u32 program_arch; /* program << 2 | arch */
	__u32 nr;
	__u64 args[6];
};

/* The values of a size or an offset: bit n of `buckets` is set for those whose highest bit is n - 1; bit 0 for 0,
 * bit 63 for all above.
 */
struct measure {
	__u64 buckets;
	__u64 least;
	__u64 most;
};
#define MEASURES 4 /* the most sizes and offsets that a call has */

struct cell {
	__u64 count;
	__u64 first_ns; /* CLOCK_MONOTONIC at entry, to the kernel's tick */
	__u64 last_ns;
	__u64 failed;
	__u64 unended; /* neither failed nor succeeded: did not return, or the kernel restarts it */
	__u64 refused; /* sys_exit without sys_enter: seccomp answered */
	__u64 doubtful; /* of `count`: refused, or begun before the thread was followed */
	__u64 errors; /* bit n: some call failed with errno n; bit 0: with one above 63, or with SIGSYS */
	__s64 last_return; /* RETURN_UNSEEN, RETURN_SIGNAL, 0, or a positive errno */
	__u32 processes;
	__u32 id;
	__u32 null;    /* bit per argument: the pointer was null */
	__u32 nonnull; /* ... and was not */
	struct measure measures[MEASURES]; /* the call's sizes and offsets in order; of no use before the first call */
};
#define RETURN_UNSEEN (-1)
#define RETURN_SIGNAL (-2) /* seccomp sent SIGSYS: trap, kill */

/* Calls of one key that a thread has counted for itself; only the thread touches it, so without atomics. */
struct slot {
	struct cell_key key;
	__u32 is_plain;
	__u32 noted; /* how many measures the call has */
	struct cell cell; /* count 0: empty */
};
#define SLOT_BITS 4
#define SLOTS (1 << SLOT_BITS) /* a server's few calls that repeat for each request */

/* A member, found by the address of its registers: no two threads that live have one. */
struct thread {
	__u64 regs; /* 0: not known yet */
	__u64 entered_ns;
	__u64 tick; /* jiffies when entered_ns was read */
	__u32 program;
	__u32 process;
	__u32 flags;
	__u32 slot; /* of the last call */
	__u64 cells[THREAD_CELLS / 64];
	struct slot slots[SLOTS];
};
#define PLACE_BITS 14 /* `places` has room for 2^14 */

struct process {
	__s64 threads;
	__u64 cells[PROCESS_CELLS / 64];
};

struct seen_key {
	__u32 process;
	__u32 cell;
};

/* A file that was written or renamed is another one. */
struct file_key {
	__u64 dentry;
	__u64 ino;
	__u64 size;
	__u64 changed_s; /* ctime, kept to the kernel's tick: size and name tell what is changed twice within one */
	__u32 changed_ns;
	__u32 name; /* hashed with its directory */
	__u32 dev;
	__u32 generation;
};

/* 64 bits wide where the old value is asked for: what bcc compiles for gives it back for no others. */
struct totals {
	__u64 next_file; /* the first id is 1; 0 is "unknown" */
	__u64 next_cell;
	__u64 next_process;
	__u64 next_member; /* members from here on were never used */
	__u64 processes;
	__u64 regs_at; /* where a thread's registers are on its stack; 0: not known yet */
	__u64 era;     /* of `strangers`: the next begins when somebody who ran before becomes a member */
	__u64 adopted; /* threads that became members in mid-life, with a past that nobody has seen */
	__s64 live; /* threads born or adopted, less those that ended; negative when the loader's own end */
	__u64 cells_full;   /* calls not counted */
	__u64 threads_full; /* births not followed */
	__u64 seen_full;    /* processes of a cell not counted */
	__u64 files_full;   /* programs without an identity */
	__u64 ring_full;    /* events not sent */
};

/* Calls for which `cells` or `plain` had no room, by arch and number alone. */
struct spilled {
	__u64 count;
	__u64 refused;
	__u64 doubtful;
	__s64 last_return;
	__u32 program; /* SPILLED_BY_MANY where there were several */
	__u32 nr;      /* of the last one */
};
#define SPILLED_BY_MANY 0xFFFFFFFFu

#define EVENT_FILE 1u /* a program or library seen for the first time */
#define EVENT_END 2u  /* no thread is left */

#define PATH_BYTES 4096
#define NAME_BYTES 256

struct event {
	__u32 kind;
	__u32 file;
	__u32 pid;
	__u32 path_at; /* offset of the path in `path`; PATH_BYTES when there is none */
	__u64 ino;
	__u32 is_program;
	__u32 mount_space; /* of the process */
	__u32 root;        /* the lower half of the address of its root directory's entry */
	__u32 changed_ns;
	__u64 changed_s;
	char path[PATH_BYTES + NAME_BYTES];
};

/* What `ask` is asked, in its first argument. */
#define ASK_FOLLOW 1u /* thread, program, process, flags: make it a member; one of ANSWER_... */
#define ASK_FORGET 2u /* thread: it has ended unseen */
#define ASK_SELF 3u   /* which: what the kernel's own data say of the asking thread */
#define ASK_THREAD 0u
#define ASK_PROCESS 1u
#define ASK_PARENT 2u
#define ASK_MOUNT_SPACE 3u
#define ASK_PROGRAM 4u    /* its id; told of as any program's */
#define ASK_ROOT 5u       /* as in `struct event` */
#define ASK_DESCRIPTOR 6u /* plus a descriptor: the lower half of its inode's number */
#define ANSWER_IS_MEMBER 0u
#define ANSWER_FOLLOWED 1u
#define ANSWER_FULL 2u

/* struct pt_regs as all user space knows it (arch/x86/include/uapi/asm/ptrace.h). */
struct registers {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

/* The arguments of a call of this arch, in these registers: syscall(2). */
#define ARGS_FROM(args, regs, arch)                                                                           \
	do {                                                                                                  \
		if (arch == ARCH_I386) {                                                                      \
			args[0] = (__u32)(regs)->bx;                                                          \
			args[1] = (__u32)(regs)->cx;                                                          \
			args[2] = (__u32)(regs)->dx;                                                          \
			args[3] = (__u32)(regs)->si;                                                          \
			args[4] = (__u32)(regs)->di;                                                          \
			args[5] = (__u32)(regs)->bp;                                                          \
		} else {                                                                                      \
			args[0] = (regs)->di;                                                                 \
			args[1] = (regs)->si;                                                                 \
			args[2] = (regs)->dx;                                                                 \
			args[3] = (regs)->r10;                                                                \
			args[4] = (regs)->r8;                                                                 \
			args[5] = (regs)->r9;                                                                 \
		}                                                                                             \
	} while (0)

#endif
