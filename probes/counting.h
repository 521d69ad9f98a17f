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

static __noinline struct cell *new_cell(struct slot *slot)
{
	struct totals *all = totals_of();
	struct cell fresh = {};
	struct cell *cell;

	if (!slot || !all)
		return 0;
	fresh.first_ns = slot->first_ns;
	fresh.last_return = RETURN_UNSEEN;
	fresh.id = FETCH_ADD(&all->next_cell, 1);
	/* Two threads may make the same cell at once: the second finds the first one's. */
	if (slot->is_plain) {
		INSERT(plain, &slot->key, &fresh);
		cell = LOOKUP(plain, &slot->key);
	} else {
		INSERT(cells, &slot->key, &fresh);
		cell = LOOKUP(cells, &slot->key);
	}
	if (!cell)
		ADD(&all->cells_full, slot->count);
	return cell;
}

/* Put what a thread has counted for itself where it is counted for all, and empty the slot. Not static: verified once. */
__noinline int flush(struct thread *thread, struct slot *slot)
{
	struct cell *cell;
	__u32 id;

	if (!thread || !slot || !slot->count)
		return 0;
	/* A short key is hashed in half the time, and most calls have one. */
	cell = slot->is_plain ? LOOKUP(plain, &slot->key) : LOOKUP(cells, &slot->key);
	if (!cell)
		cell = new_cell(slot);
	if (cell) {
		ADD(&cell->count, slot->count);
		if (slot->ok)
			ADD(&cell->ok, slot->ok);
		if (slot->failed)
			ADD(&cell->failed, slot->failed);
		if (slot->refused)
			ADD(&cell->refused, slot->refused);
		if (slot->doubtful)
			ADD(&cell->doubtful, slot->doubtful);
		if (slot->last_ns >= cell->last_ns) {
			cell->last_ns = slot->last_ns;
			if (slot->last_return != RETURN_UNSEEN)
				cell->last_return = slot->last_return;
		} else if (cell->last_return == RETURN_UNSEEN) {
			cell->last_return = slot->last_return;
		}
		if (slot->first_ns < cell->first_ns)
			cell->first_ns = slot->first_ns;
		id = cell->id;
		if (id >= THREAD_CELLS ||
		    !(thread->cells[(id / 64) & (THREAD_CELLS / 64 - 1)] & (1ULL << (id & 63))))
			note_process(thread, cell);
	}
	slot->count = 0;
	return 0;
}

static __always_inline void count_return(struct slot *slot, __s64 ret)
{
	if (ret >= 0 || ret < -MAX_ERRNO) {
		slot->ok++;
		slot->last_return = 0;
	} else {
		/* ERESTARTSYS … ERESTART_RESTARTBLOCK: neither success nor failure (include/linux/errno.h). */
		if (ret != -512 && ret != -513 && ret != -514 && ret != -516)
			slot->failed++;
		slot->last_return = -ret;
	}
}

static __always_inline int is_same(const struct cell_key *a, const struct cell_key *b, __u32 is_plain)
{
	if (a->program_arch != b->program_arch || a->nr != b->nr)
		return 0;
	/* Whether it is plain follows from the call: it is for both. */
	return is_plain ||
	       (a->args[0] == b->args[0] && a->args[1] == b->args[1] && a->args[2] == b->args[2] &&
		a->args[3] == b->args[3] && a->args[4] == b->args[4] && a->args[5] == b->args[5]);
}

/* Count the call whose key the thread holds. Programs repeat themselves: mostly its slot is the right one, and no map
 * is asked. Every call the kernel makes costs twice on processors with return mitigations.
 */
static __always_inline struct slot *count_call(struct thread *thread)
{
	__u32 is_plain = thread->flags & THREAD_PLAIN, at = thread->key.nr;
	struct slot *slot;

	if (!is_plain)
		at += thread->key.args[0] + thread->key.args[1] + thread->key.args[2];
	at = (at ^ at >> 2 ^ at >> 4) & (SLOTS - 1);
	slot = &thread->slots[at];
	if (!slot->count || !is_same(&slot->key, &thread->key, is_plain)) {
		flush(thread, slot);
		slot->key = thread->key;
		slot->is_plain = is_plain;
		slot->first_ns = thread->entered_ns;
		slot->ok = slot->failed = slot->refused = slot->doubtful = 0;
		slot->last_return = RETURN_UNSEEN;
	}
	slot->count++;
	slot->last_ns = thread->entered_ns;
	return slot;
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

/* Reading the clock costs a third of what counting does: once a tick is enough for "first" and "last". */
static __always_inline void note_time(struct thread *thread)
{
	__u64 tick = bpf_jiffies64();

	if (tick != thread->tick) {
		thread->tick = tick;
		thread->entered_ns = bpf_ktime_get_ns();
	}
}

/* Begin a call: put its constrained arguments into the thread's key; what is unconstrained is 0. */
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
	note_time(thread);
	thread->key.program_arch = thread->program << 2 | arch;
	thread->key.nr = nr;
#define PUT(i)                                                                                                \
	{                                                                                                     \
		__u32 how = layout >> (2 * i) & 3;                                                            \
		thread->key.args[i] = how == ARG_NONE ? 0 : how == ARG_32 ? (__u32)args[i] : args[i];          \
	}
	if (!(layout & 0xfff)) {
		thread->flags = THREAD_IN_CALL | THREAD_PLAIN;
	} else {
		thread->flags = THREAD_IN_CALL;
		PUT(0) PUT(1) PUT(2) PUT(3) PUT(4) PUT(5)
		if (layout >> LAYOUT_CONDITION)
			drop_unread(thread, (layout >> LAYOUT_CONDITION) - 1, args);
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
	layout = make_key(thread, arch, nr, args);
	if (layout & LAYOUT_MAPS_FILE && args[2] & PROT_EXEC)
		thread->flags |= THREAD_MAPS_CODE;
}

/* Count a call as it begins, for loads without sys_exit: what calls return is not seen, nor is what seccomp
 * refuses.
 */
static __always_inline void on_enter_only(struct thread *thread, __u64 pid_tgid, __u32 arch, __u32 nr,
					  const __u64 *args)
{
	if (thread->flags & THREAD_NEWBORN)
		born(thread, (__u32)pid_tgid, pid_tgid >> 32);
	make_key(thread, arch, nr, args);
	thread->flags &= THREAD_PLAIN;
	count_call(thread);
}

/* Count a call that seccomp answered.
 *
 * For trap and kill it puts the number back where the return value will be (syscall_rollback) and sends SIGSYS. A
 * filter can make read, whose number is 0, return 0 as well; that looks the same.
 */
static __always_inline void count_refused(struct thread *thread, __u32 nr, __s64 ret, __u32 flags)
{
	int is_error = ret < 0 && ret >= -MAX_ERRNO, is_signal = (__u32)ret == nr;
	struct slot *slot;

	/* The end of an older call, unless it failed: whoever knows the filter can tell the two apart. */
	if (flags & THREAD_UNSURE && !is_signal && (!is_error || (ret <= -512 && ret >= -516)))
		return;
	slot = count_call(thread);
	if (flags & THREAD_UNSURE) {
		slot->doubtful++;
		slot->last_return = is_signal ? RETURN_SIGNAL : -ret;
		return;
	}
	slot->refused++;
	if (is_signal) {
		slot->failed++;
		slot->last_return = RETURN_SIGNAL;
	} else {
		count_return(slot, ret);
	}
}

/* Count the call that ends here. When it did not pass sys_enter, seccomp answered it. */
static __always_inline void on_exit(struct thread *thread, __u64 pid_tgid, __u32 arch, __u32 nr, const __u64 *args,
				   __s64 ret)
{
	__u32 flags = thread->flags;
	struct slot *slot;

	if (arch == ARCH_I386)
		ret = (__s32)ret;
	if (!(flags & THREAD_IN_CALL)) {
		if (flags & THREAD_NEWBORN)
			born(thread, (__u32)pid_tgid, pid_tgid >> 32);
		thread->flags = 0;
		if (flags & THREAD_SKIP_EXIT)
			return;
		make_key(thread, arch, nr, args);
		thread->flags &= THREAD_PLAIN;
		count_refused(thread, nr, ret, flags);
		return;
	}
	thread->flags &= THREAD_PLAIN;
	slot = count_call(thread);
	count_return(slot, ret);
}

/* A thread dies of what seccomp answered (kill_thread): there is no sys_exit then. */
static __always_inline void on_killed(struct thread *thread, __u32 arch, __u32 nr, const __u64 *args)
{
	if (thread->flags & THREAD_IN_CALL)
		return;
	make_key(thread, arch, nr, args);
	thread->flags &= THREAD_PLAIN;
	count_refused(thread, nr, nr, 0);
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
	child->tick = 0;
	for (int i = 0; i < THREAD_CELLS / 64; i++)
		child->cells[i] = 0;
	for (int i = 0; i < SLOTS; i++)
		child->slots[i].count = 0;
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

static __noinline struct thread *new_member(__u32 tid)
{
	struct totals *all = totals_of();
	__u32 zero = 0;
	struct thread *thread = LOOKUP(nobody, &zero); /* it does not fit on the stack */

	if (!all || !thread)
		return 0;
	if (INSERT(threads, &tid, thread) == 0)
		ADD(&all->live, 1);
	thread = LOOKUP(threads, &tid);
	if (!thread) {
		ADD(&all->threads_full, 1);
		return 0;
	}
	thread->flags = THREAD_NEWBORN | THREAD_SKIP_EXIT;
	return thread;
}

/* Make a thread a member from here on; a process's first one brings the process with it. */
static __noinline int adopt(__u32 tid, __u32 tgid)
{
	struct thread *leader, *thread;

	if (tid == tgid) {
		new_member(tid);
		return 0;
	}
	leader = LOOKUP(threads, &tgid);
	if (!leader) {
		leader = new_member(tgid);
		if (leader)
			born(leader, tgid, tgid);
	}
	thread = new_member(tid);
	if (thread && leader)
		thread->process = leader->process;
	return 0;
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
	for (int i = 0; i < SLOTS; i++)
		flush(thread, &thread->slots[i]);
	process_id = thread->process;
	DELETE(threads, &tid);
	process = LOOKUP(processes, &process_id);
	if (process && FETCH_ADD(&process->threads, -1) == 1)
		DELETE(processes, &process_id);
	return FETCH_ADD(&all->live, -1) == 1;
}

#endif
