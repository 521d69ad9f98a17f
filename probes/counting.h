/* What the probes do, whoever loaded them: follow the members and count their calls.
 *
 * The including file defines the maps, LOOKUP/INSERT/DELETE on them, FETCH_ADD and `struct call_regs` access, and
 * calls on_enter, on_exit, on_fork, on_exec, on_end from its hooks.
 *
 * A call is counted when it ends (sys_exit, or the death of its thread), under the key made when it began: one
 * hash lookup less than counting at both ends. Members are kept by thread id of the initial pid namespace.
 */
#ifndef AUTOPROFILE_COUNTING_H
#define AUTOPROFILE_COUNTING_H

#include "records.h"

#define MAX_ERRNO 4095
#define PROT_EXEC 4

static __always_inline struct totals *totals_of(void)
{
	__u32 zero = 0;

	return LOOKUP(totals, &zero);
}

static __always_inline void note_process(struct thread *thread, struct cell *cell)
{
	__u32 id = cell->id, process_id = thread->process;
	struct process *process;
	__u64 bit = 1ULL << (id & 63);

	if (id < THREAD_CELLS)
		thread->cells[(id / 64) & (THREAD_CELLS / 64 - 1)] |= bit;
	if (id < PROCESS_CELLS) {
		process = LOOKUP(processes, &process_id);
		if (process) {
			__u64 *word = &process->cells[(id / 64) & (PROCESS_CELLS / 64 - 1)];

			if (!(FETCH_OR(word, bit) & bit))
				ADD(&cell->processes, 1);
			return;
		}
	}
	struct seen_key seen_key = { .process = process_id, .cell = id };
	__u8 one = 1;

	if (LOOKUP(seen, &seen_key))
		return;
	if (INSERT(seen, &seen_key, &one) == 0) {
		ADD(&cell->processes, 1);
	} else if (!LOOKUP(seen, &seen_key)) {
		struct totals *all = totals_of();

		if (all)
			ADD(&all->seen_full, 1);
	}
}

static __noinline struct cell *new_cell(struct thread *thread)
{
	struct totals *all = totals_of();
	struct cell fresh = {};
	struct cell *cell;

	if (!thread || !all)
		return 0;
	fresh.first_ns = thread->entered_ns;
	fresh.last_return = RETURN_UNSEEN;
	fresh.id = FETCH_ADD(&all->next_cell, 1);
	/* Two threads may make the same cell at once: the second finds the first one's. */
	INSERT(cells, &thread->key, &fresh);
	cell = LOOKUP(cells, &thread->key);
	if (!cell)
		ADD(&all->cells_full, 1);
	return cell;
}

static __always_inline void count_return(struct cell *cell, __s64 ret)
{
	if (ret >= 0 || ret < -MAX_ERRNO) {
		ADD(&cell->ok, 1);
		cell->last_return = 0;
	} else {
		/* ERESTARTSYS … ERESTART_RESTARTBLOCK: neither success nor failure (include/linux/errno.h). */
		if (ret != -512 && ret != -513 && ret != -514 && ret != -516)
			ADD(&cell->failed, 1);
		cell->last_return = -ret;
	}
}

static __always_inline struct cell *count_call(struct thread *thread)
{
	struct cell *cell = LOOKUP(cells, &thread->key);
	__u64 at = thread->entered_ns;
	__u32 id;

	if (!cell) {
		cell = new_cell(thread);
		if (!cell)
			return 0;
	}
	ADD(&cell->count, 1);
	if (at > cell->last_ns)
		cell->last_ns = at;
	if (at < cell->first_ns)
		cell->first_ns = at;
	id = cell->id;
	if (id >= THREAD_CELLS || !(thread->cells[(id / 64) & (THREAD_CELLS / 64 - 1)] & (1ULL << (id & 63))))
		note_process(thread, cell);
	return cell;
}

/* The thread runs for the first time since its birth; only now its process id can be told. */
static __noinline int born(struct thread *thread, __u32 tid, __u32 tgid)
{
	struct totals *all = totals_of();
	struct process *process;
	__u32 zero = 0, id;

	if (!thread || !all)
		return 0;
	thread->flags &= ~THREAD_NEWBORN;
	if (tid != tgid) {
		id = thread->process;
		process = LOOKUP(processes, &id);
		if (process)
			ADD(&process->threads, 1);
		return 0;
	}
	id = FETCH_ADD(&all->next_process, 1);
	thread->process = id;
	ADD(&all->processes, 1);
	process = LOOKUP(blank, &zero); /* it does not fit on the stack */
	if (process)
		INSERT(processes, &id, process); /* full: `seen` stands in */
	process = LOOKUP(processes, &id);
	if (process)
		ADD(&process->threads, 1);
	return 0;
}

/* What a register that the call does not read holds is garbage: one call would be as many keys as there are stack
 * addresses. It counts as 0.
 */
static __noinline int drop_unread(struct thread *thread, __u32 number, const __u64 *args)
{
	struct condition *condition = LOOKUP(conditions, &number);
	__u64 decider;

	if (!condition || !thread || !args || condition->decider > 5 || condition->argument > 5)
		return 0;
	decider = args[condition->decider] & condition->mask;
	if (decider & condition->any_bits)
		return 0;
	for (int i = 0; i < CONDITION_VALUES; i++) {
		if (i >= condition->value_count)
			break;
		if (decider == condition->values[i])
			return 0;
	}
	thread->key.args[condition->argument] = 0;
	return 0;
}

/* Put the constrained arguments of a call into the thread's key; what is unconstrained is 0. */
static __always_inline __u32 make_key(struct thread *thread, __u32 arch, __u32 nr, const __u64 *args)
{
	__u32 zero = 0, layout = 0, plain = nr;
	struct layouts *table;

	if (arch == ARCH_X32)
		plain &= ~0x40000000u;
	if (plain < LAYOUT_NRS) {
		table = LOOKUP(layouts, &zero);
		plain += arch * LAYOUT_NRS;
		if (table && plain < ARCHES * LAYOUT_NRS)
			layout = table->of[plain];
	}
	thread->key.program_arch = thread->program << 2 | arch;
	thread->key.nr = nr;
#define PUT(i)                                                                                                \
	{                                                                                                     \
		__u32 how = layout >> (2 * i) & 3;                                                            \
		thread->key.args[i] = how == ARG_NONE ? 0 : how == ARG_32 ? (__u32)args[i] : args[i];          \
	}
	if (layout & 0xfff) {
		PUT(0) PUT(1) PUT(2) PUT(3) PUT(4) PUT(5)
		if (layout >> LAYOUT_CONDITION)
			drop_unread(thread, (layout >> LAYOUT_CONDITION) - 1, args);
	} else {
		thread->key.args[0] = 0;
		thread->key.args[1] = 0;
		thread->key.args[2] = 0;
		thread->key.args[3] = 0;
		thread->key.args[4] = 0;
		thread->key.args[5] = 0;
	}
#undef PUT
	return layout;
}

static __always_inline void on_enter(struct thread *thread, __u64 pid_tgid, __u32 arch, __u32 nr, const __u64 *args)
{
	__u32 layout;

	if (thread->flags & (THREAD_NEWBORN | THREAD_IN_CALL)) {
		if (thread->flags & THREAD_NEWBORN)
			born(thread, (__u32)pid_tgid, pid_tgid >> 32);
		else
			count_call(thread); /* it never returned */
	}
	thread->entered_ns = bpf_ktime_get_ns();
	layout = make_key(thread, arch, nr, args);
	thread->flags = THREAD_IN_CALL;
	if (layout & LAYOUT_MAPS_FILE && args[2] & PROT_EXEC)
		thread->flags = THREAD_IN_CALL | THREAD_MAPS_CODE;
}

/* Count the call that ends here; 1 when it did not pass sys_enter, for then seccomp answered it. */
static __always_inline int on_exit(struct thread *thread, __u64 pid_tgid, __u32 arch, __u32 nr, const __u64 *args,
				   __s64 ret)
{
	__u32 flags = thread->flags;
	struct cell *cell;
	int refused = 0;

	if (!(flags & THREAD_IN_CALL)) {
		if (flags & THREAD_NEWBORN)
			born(thread, (__u32)pid_tgid, pid_tgid >> 32);
		thread->flags = 0;
		if (flags & THREAD_SKIP_EXIT)
			return 0;
		thread->entered_ns = bpf_ktime_get_ns();
		make_key(thread, arch, nr, args);
		refused = 1;
	}
	thread->flags = 0;
	cell = count_call(thread);
	if (!cell)
		return 0;
	count_return(cell, arch == ARCH_I386 ? (__s32)ret : ret);
	if (refused)
		ADD(&cell->refused, 1);
	return refused;
}

static __always_inline void on_fork(__u32 parent_tid, __u32 child_tid)
{
	struct thread *parent = LOOKUP(threads, &parent_tid);
	struct thread *child;
	struct totals *all = totals_of();

	if (!parent || !all)
		return;
	/* Inserted from the parent's value and then cut to a child's: a thread does not fit on the stack. */
	if (INSERT(threads, &child_tid, parent) != 0) {
		ADD(&all->threads_full, 1);
		return;
	}
	child = LOOKUP(threads, &child_tid);
	if (!child)
		return;
	child->flags = THREAD_NEWBORN | THREAD_SKIP_EXIT;
	for (int i = 0; i < THREAD_CELLS / 64; i++)
		child->cells[i] = 0;
	ADD(&all->live, 1);
}

/* A member's process runs another program now. The execve itself is still counted for the old one. */
static __always_inline void on_exec(__u32 tid, __u32 old_tid, __u32 program)
{
	struct thread *thread;

	if (tid != old_tid) {
		/* Its thread has taken the place and the id of the leader, which has ended. */
		thread = LOOKUP(threads, &old_tid);
		if (!thread)
			return;
		INSERT(threads, &tid, thread);
		DELETE(threads, &old_tid);
	}
	thread = LOOKUP(threads, &tid);
	if (thread)
		thread->program = program;
}

/* Make a thread a member from here on; a process's first one brings the process with it. */
static __noinline int adopt(__u32 tid, __u32 tgid)
{
	struct totals *all = totals_of();
	struct thread fresh = { .flags = THREAD_NEWBORN | THREAD_SKIP_EXIT };
	struct thread *leader;

	if (!all)
		return 0;
	if (tid != tgid) {
		leader = LOOKUP(threads, &tgid);
		if (!leader) {
			if (INSERT(threads, &tgid, &fresh) == 0)
				ADD(&all->live, 1);
			leader = LOOKUP(threads, &tgid);
			if (leader)
				born(leader, tgid, tgid);
		}
		if (leader)
			fresh.process = leader->process;
	}
	if (INSERT(threads, &tid, &fresh) == 0)
		ADD(&all->live, 1);
	else
		ADD(&all->threads_full, 1);
	return 1;
}

/* Returns 1 when no thread is left. */
static __always_inline int on_end(__u64 pid_tgid)
{
	__u32 tid = pid_tgid, process_id;
	struct thread *thread = LOOKUP(threads, &tid);
	struct process *process;
	struct totals *all = totals_of();

	if (!thread || !all)
		return 0;
	if (thread->flags & THREAD_NEWBORN)
		born(thread, tid, pid_tgid >> 32);
	if (thread->flags & THREAD_IN_CALL)
		count_call(thread);
	process_id = thread->process;
	DELETE(threads, &tid);
	process = LOOKUP(processes, &process_id);
	if (process && FETCH_ADD(&process->threads, -1) == 1)
		DELETE(processes, &process_id);
	return FETCH_ADD(&all->live, -1) == 1;
}

#endif
