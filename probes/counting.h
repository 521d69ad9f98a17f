/* What the probes do, whoever loaded them: follow the members and count their calls.
 *
 * The including file defines how maps are reached and the kernel's data are read (core.h, bcc.h).
 *
 * A call is counted when it begins; its end only notes what went wrong. Members are kept by thread id of the initial pid
 * namespace, but found by the address of their registers: that needs no call of a helper, and each costs twice on
 * processors with return mitigations.
 */
#ifndef AUTOPROFILE_COUNTING_H
#define AUTOPROFILE_COUNTING_H

#define LOOKUP(map, key) bpf_map_lookup_elem(MAP(map), key)
#define INSERT(map, key, value) bpf_map_update_elem(MAP(map), key, value, BPF_NOEXIST)
#define DELETE(map, key) bpf_map_delete_elem(MAP(map), key)
#define ADD(where, n) __sync_fetch_and_add(where, n)
#define FETCH_ADD(where, n) __sync_fetch_and_add(where, n)
#define FETCH_OR(where, n) __sync_fetch_and_or(where, n)
#define EXCHANGE(where, old, new) __sync_val_compare_and_swap(where, old, new)

#define MAX_ERRNO 4095
#define PROT_EXEC 4
#define TS_COMPAT 0x0002 /* arch/x86/include/asm/thread_info.h: in a 32-bit call, whatever the program */

static __always_inline struct totals *totals_of(void)
{
	__u32 zero = 0;

	return LOOKUP(totals, &zero);
}

static __always_inline struct config *config_of(void)
{
	__u32 zero = 0;

	return LOOKUP(configs, &zero);
}

static __always_inline __u32 arch_of(__u32 status, __u32 nr)
{
	if (status & TS_COMPAT)
		return ARCH_I386;
	return nr & 0x40000000u && nr < 0x80000000u ? ARCH_X32 : ARCH_X86_64;
}

/* As `read_args`, but from an address that the verifier knows nothing of. */
static __always_inline void read_args_at(__u64 *args, __u64 regs, __u32 arch)
{
	struct registers from = {};

	bpf_probe_read_kernel(&from, sizeof(from), (void *)regs);
	ARGS_FROM(args, &from, arch);
}

/* ---------------------------------------------------------------------------------------------- members */

#define HASHED(half) (((half) * 0x9E3779B1u) >> (32 - PLACE_BITS)) /* Knuth's multiplicative hash */

static __always_inline __u32 place_of(regs_t regs)
{
	return HASHED(half_of(regs));
}

/* The caller, if it is where its registers say. */
static __always_inline struct thread *thread_at(regs_t regs)
{
	__u32 place = place_of(regs), at;
	__u32 *found = LOOKUP(places, &place);
	struct thread *thread;

	if (!found)
		return 0;
	at = *found;
	thread = LOOKUP(members, &at);
	return thread && thread->regs == (__u64)regs ? thread : 0;
}

/* Strangers are remembered, too: most calls of a machine are theirs, and finding out twice by id costs more than counting.
 *
 * Registers lie at the same place of every stack, and stacks (THREAD_SIZE in arch/x86/include/asm/page_64_types.h) are
 * multiples of 16384: the bits below say nothing, and hold the era instead. One word, so that it is never half another's.
 */
#define ERAS 16384ULL

static __always_inline __u64 stranger_of(regs_t regs, struct totals *all)
{
	return (distance_of(regs, all) & -ERAS) | (all->era & (ERAS - 1));
}

static __always_inline int is_stranger(regs_t regs)
{
	__u32 place = place_of(regs);
	__u64 *found = LOOKUP(strangers, &place);
	struct totals *all = totals_of();

	return found && all && *found == stranger_of(regs, all) && all->era < ERAS;
}

/* The registers that are known to lie at this address of a stack become a member's. */
static __always_inline void forget_stranger(__u64 regs)
{
	__u32 place = HASHED((__u32)regs);
	__u64 *found = LOOKUP(strangers, &place);

	if (found)
		*found = 0;
}

/* Nobody is known as a stranger any more. */
static __always_inline void begin_era(void)
{
	struct totals *all = totals_of();

	if (all && all->era < ERAS)
		ADD(&all->era, 1);
}

static __always_inline struct thread *thread_of(__u32 tid)
{
	__u32 *found = LOOKUP(threads, &tid), at;

	if (!found)
		return 0;
	at = *found;
	return LOOKUP(members, &at);
}

/* The caller, found by its id; next time its registers will do. */
APART struct thread *find_caller(regs_t regs)
{
	__u32 tid = bpf_get_current_pid_tgid(), place = place_of(regs), at;
	struct totals *all = totals_of();
	struct config *config = config_of();
	struct thread *thread;
	__u32 *found, *kept;
	__u64 word, *known;

	if (!all || !config)
		return 0;
	/* Of the era before it is looked for: who becomes a member meanwhile begins another. */
	word = stranger_of(regs, all);
	found = LOOKUP(threads, &tid);
	if (!found) {
		known = LOOKUP(strangers, &place);
		/* Whoever enters a cgroup can be a member from then on, and nobody tells. */
		if (known && !(config->flags & CONFIG_CGROUP))
			*known = word;
		return 0;
	}
	at = *found;
	thread = LOOKUP(members, &at);
	kept = LOOKUP(places, &place);
	if (!thread || !kept)
		return 0;
	thread->regs = (__u64)regs;
	*kept = at;
	if (!all->regs_at)
		all->regs_at = half_of(regs) - (__u32)read_task_stack(caller_task());
	return thread;
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

/* ------------------------------------------------------------------------------------- cells and slots */

static __always_inline struct cell *cell_of(struct slot *slot)
{
	/* A short key is hashed in half the time, and most calls have one. */
	return slot->is_plain ? LOOKUP(plain, &slot->key) : LOOKUP(cells, &slot->key);
}

ONCE int add_measure(struct measure *to, struct measure *from)
{
	__u64 seen;

	if (!to || !from)
		return 0;
	FETCH_OR(&to->buckets, from->buckets);
	/* Tried a few times: each failure is another thread's success. */
	for (int i = 0; i < 4 && from->least < (seen = to->least); i++)
		if (EXCHANGE(&to->least, seen, from->least) == seen)
			break;
	for (int i = 0; i < 4 && from->most > (seen = to->most); i++)
		if (EXCHANGE(&to->most, seen, from->most) == seen)
			break;
	return 0;
}

/* Add a slot to a cell that another one has made. */
APART void add_to(struct cell *cell, struct slot *slot)
{
	struct cell *own = &slot->cell;

	if (own->last_ns >= cell->last_ns) {
		cell->last_ns = own->last_ns;
		if (own->last_return != RETURN_UNSEEN)
			cell->last_return = own->last_return;
	} else if (cell->last_return == RETURN_UNSEEN) {
		cell->last_return = own->last_return;
	}
	if (own->first_ns < cell->first_ns)
		cell->first_ns = own->first_ns;
	if (own->failed)
		ADD(&cell->failed, own->failed);
	if (own->unended)
		ADD(&cell->unended, own->unended);
	if (own->refused)
		ADD(&cell->refused, own->refused);
	if (own->doubtful)
		ADD(&cell->doubtful, own->doubtful);
	if (own->errors & ~cell->errors)
		FETCH_OR(&cell->errors, own->errors);
	cell->null |= own->null;
	cell->nonnull |= own->nonnull;
	for (__u32 i = 0; i < MEASURES; i++)
		if (i < slot->noted)
			add_measure(&cell->measures[i], &own->measures[i]);
	ADD(&cell->count, own->count);
}

/* Count a slot for which there is no room without its program and arguments: what a filter refused is never lost. */
ONCE int spill(struct slot *slot)
{
	__u32 arch, nr, at, program;
	struct spilled *to;

	if (!slot)
		return 0;
	arch = slot->key.program_arch & 3;
	nr = slot->key.nr;
	program = slot->key.program_arch >> 2;
	at = arch == ARCH_X32 ? nr & ~0x40000000u : nr;
	at = arch * LAYOUT_NRS + (at < LAYOUT_NRS - 1 ? at : LAYOUT_NRS - 1);
	to = LOOKUP(spilled, &at);
	if (!to)
		return 0;
	if (!to->count)
		to->program = program;
	else if (to->program != program)
		to->program = SPILLED_BY_MANY;
	to->nr = nr;
	to->last_return = slot->cell.last_return;
	ADD(&to->refused, slot->cell.refused);
	ADD(&to->doubtful, slot->cell.doubtful);
	ADD(&to->count, slot->cell.count);
	return 0;
}

/* Put what a thread has counted for itself where it is counted for all, and empty the slot. */
ONCE int flush(struct thread *thread, struct slot *slot)
{
	struct totals *all = totals_of();
	struct cell *cell;
	int is_new = 0;
	__u32 id;

	if (!thread || !slot || !all || !slot->cell.count)
		return 0;
	cell = cell_of(slot);
	if (!cell) {
		/* Two threads may make the same cell at once: the second finds the first one's. */
		slot->cell.id = FETCH_ADD(&all->next_cell, 1);
		slot->cell.processes = 0;
		is_new = (slot->is_plain ? INSERT(plain, &slot->key, &slot->cell)
					 : INSERT(cells, &slot->key, &slot->cell)) == 0;
		cell = cell_of(slot);
	}
	if (cell) {
		if (!is_new)
			add_to(cell, slot);
		id = cell->id;
		if (id >= THREAD_CELLS ||
		    !(thread->cells[(id / 64) & (THREAD_CELLS / 64 - 1)] & (1ULL << (id & 63))))
			note_process(thread, cell);
	} else {
		ADD(&all->cells_full, slot->cell.count);
		spill(slot);
	}
	slot->cell.count = 0;
	return 0;
}

/* ------------------------------------------------------------------------------------- beginning a call */

static __always_inline int is_caller_leader(void)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();

	return (__u32)pid_tgid == pid_tgid >> 32;
}

/* The thread runs for the first time since its birth; only now it can be told whether it is a process. */
ONCE int born(struct thread *thread, int is_leader)
{
	struct totals *all = totals_of();
	struct process *process;
	__u32 zero = 0, id;

	if (!thread || !all)
		return 0;
	thread->flags &= ~THREAD_NEWBORN;
	if (!is_leader) {
		id = thread->process;
	} else {
		id = FETCH_ADD(&all->next_process, 1);
		thread->process = id;
		ADD(&all->processes, 1);
		process = LOOKUP(blank, &zero); /* it does not fit on the stack */
		if (process)
			INSERT(processes, &id, process); /* full: `seen` stands in */
	}
	process = LOOKUP(processes, &id);
	if (process)
		ADD(&process->threads, 1);
	return 0;
}

/* A call's arguments, where they are given to a function that is verified once. */
struct arguments {
	__u64 of[6];
};

/* What a register that the call does not read holds is garbage: one call would be as many keys as there are stack
 * addresses. It counts as 0. Returns the argument that this call does not read; 6 for none.
 */
ONCE __u32 unread_of(__u32 number, const struct arguments *args)
{
	struct condition *condition = LOOKUP(conditions, &number);
	__u64 decider;

	if (!condition || !args || condition->decider > 5)
		return 6;
	decider = args->of[condition->decider] & condition->mask;
	if (decider & condition->any_bits)
		return 6;
	for (int i = 0; i < CONDITION_VALUES; i++) {
		if (i >= condition->value_count)
			break;
		if (decider == condition->values[i])
			return 6;
	}
	return condition->argument;
}

/* 0 for 0, else the number of the highest bit, from 1 up; 63 for all above. Without branches, of which the verifier would
 * walk every combination.
 */
static __always_inline __u32 bucket_of(__u64 value)
{
	value >>= value >> 63; /* 64 is as good as 63 */
	value |= value >> 1;
	value |= value >> 2;
	value |= value >> 4;
	value |= value >> 8;
	value |= value >> 16;
	value |= value >> 32;
	/* Now as many bits are set: counted in pairs, in fours, in eights, and those added up. */
	value -= value >> 1 & 0x5555555555555555ULL;
	value = (value & 0x3333333333333333ULL) + (value >> 2 & 0x3333333333333333ULL);
	value = (value + (value >> 4)) & 0x0F0F0F0F0F0F0F0FULL;
	return value * 0x0101010101010101ULL >> 56;
}

/* Note the next size or offset of a call. */
ONCE int note_size(struct slot *slot, __u64 value)
{
	struct measure *to;
	__u32 at;

	if (!slot)
		return 0;
	at = slot->noted & (MEASURES - 1);
	to = &slot->cell.measures[at];
	to->buckets |= 1ULL << (bucket_of(value) & 63);
	if (value < to->least)
		to->least = value;
	if (value > to->most)
		to->most = value;
	slot->noted = at + 1;
	return 0;
}

/* Note sizes, offsets and pointers beside the count. */
ONCE int note_args(struct slot *slot, __u32 layout, const struct arguments *args)
{
	if (!slot || !args)
		return 0;
	slot->noted = 0;
	for (int i = 0; i < 6; i++) {
		__u32 how = layout >> (3 * i) & 7;
		__u64 value = args->of[i];

		if (how == ARG_POINTER) {
			if (value)
				slot->cell.nonnull |= 1u << i;
			else
				slot->cell.null |= 1u << i;
		} else if (how == ARG_SIZE_32 || how == ARG_SIZE_64) {
			note_size(slot, how == ARG_SIZE_32 ? (__u32)value : value);
		}
	}
	return 0;
}

ONCE int renew(struct thread *thread, struct slot *slot)
{
	if (!thread || !slot)
		return 0;
	flush(thread, slot);
	slot->noted = 0;
	slot->cell.first_ns = thread->entered_ns;
	slot->cell.failed = slot->cell.unended = slot->cell.refused = slot->cell.doubtful = 0;
	slot->cell.errors = 0;
	slot->cell.last_return = RETURN_UNSEEN;
	slot->cell.null = slot->cell.nonnull = 0;
	for (int i = 0; i < MEASURES; i++) {
		slot->cell.measures[i].buckets = slot->cell.measures[i].most = 0;
		slot->cell.measures[i].least = ~0ULL;
	}
	return 0;
}

/* Cut an index to a power of two where the compiler sees no need to, but the verifier does. */
#define BELOW(index, power)                                                                                   \
	({                                                                                                    \
		__u64 cut = (index);                                                                          \
		asm volatile("%0 &= %1" : "+r"(cut) : "i"((power) - 1));                                      \
		cut;                                                                                          \
	})

static __always_inline __u32 layout_of(__u32 arch, __u32 nr)
{
	__u32 zero = 0, plain = arch == ARCH_X32 ? nr & ~0x40000000u : nr;
	struct layouts *table;

	if (plain >= LAYOUT_NRS)
		return 0;
	table = LOOKUP(layouts, &zero);
	return table ? table->of[BELOW(arch * LAYOUT_NRS + plain, 4 * LAYOUT_NRS)] : 0;
}

static __always_inline int holds(struct slot *slot, __u32 program_arch, __u32 nr, int is_plain, const __u64 *kept)
{
	/* Whether it is plain follows from the call: it is for both. */
	return slot->cell.count && slot->key.program_arch == program_arch && slot->key.nr == nr &&
	       (is_plain || (slot->key.args[0] == kept[0] && slot->key.args[1] == kept[1] &&
			     slot->key.args[2] == kept[2] && slot->key.args[3] == kept[3] &&
			     slot->key.args[4] == kept[4] && slot->key.args[5] == kept[5]));
}

/* Count a call in one of its thread's slots, under its program, arch, number and constrained arguments; what is
 * unconstrained is 0. Programs repeat themselves: mostly one of two slots is the right one, and no map is asked.
 */
static __always_inline struct slot *count_call(struct thread *thread, __u32 arch, __u32 nr, __u32 layout,
					       const __u64 *args)
{
	__u32 program_arch = thread->program << 2 | arch, is_plain = !(layout & LAYOUT_KEYED), at = nr;
	__u32 unread = 6;
	__u64 tick = bpf_jiffies64();
	__u64 kept[6] = {};
	struct slot *slot;

	/* Reading the clock costs more than counting does: once a tick is enough for "first" and "last". */
	if (tick != thread->tick) {
		thread->tick = tick;
		thread->entered_ns = bpf_ktime_get_ns();
	}
	if (!is_plain) {
		if (layout >> LAYOUT_CONDITION)
			unread = unread_of((layout >> LAYOUT_CONDITION) - 1, (void *)args);
#define KEEP(i)                                                                                               \
	{                                                                                                     \
		__u32 how = layout >> (3 * i) & 7;                                                            \
		kept[i] = unread == i ? 0 : how == ARG_64 ? args[i] : how == ARG_32 ? (__u32)args[i] : 0;     \
	}
		KEEP(0) KEEP(1) KEEP(2) KEEP(3) KEEP(4) KEEP(5)
#undef KEEP
		at += kept[0] + kept[1] + kept[2] + kept[3] + kept[4] + kept[5];
	}
	at = (at * 0x9E3779B1u) >> (32 - SLOT_BITS); /* Knuth's multiplicative hash */
	slot = &thread->slots[at];
	if (!holds(slot, program_arch, nr, is_plain, kept)) {
		slot = &thread->slots[at ^ 1];
		/* Of the two, the one that is used less makes room. */
		if (holds(slot, program_arch, nr, is_plain, kept) ||
		    slot->cell.count < thread->slots[at].cell.count)
			at ^= 1;
		slot = &thread->slots[at];
	}
	if (!holds(slot, program_arch, nr, is_plain, kept)) {
		renew(thread, slot);
		slot->key.program_arch = program_arch;
		slot->key.nr = nr;
		slot->is_plain = is_plain;
		if (!is_plain)
			for (int i = 0; i < 6; i++)
				slot->key.args[i] = kept[i];
	}
	slot->cell.count++;
	slot->cell.last_ns = thread->entered_ns;
	thread->slot = at;
	if (layout & LAYOUT_NOTED)
		note_args(slot, layout, (void *)args);
	return slot;
}

/* What is rare when a call begins. */
ONCE int begin_oddly(struct thread *thread)
{
	if (!thread)
		return 0;
	if (thread->flags & THREAD_NEWBORN)
		born(thread, is_caller_leader());
	if (thread->flags & THREAD_IN_CALL)
		thread->slots[thread->slot & (SLOTS - 1)].cell.unended++; /* it never returned */
	return 0;
}

APART int note_mapped(__u32 fd);

/* A member makes a call. Where its end is not watched, what calls return is not seen, nor is what seccomp refuses. */
static __always_inline void on_enter(struct thread *thread, regs_t regs, __u32 nr, __u32 flags)
{
	__u32 arch = arch_of(caller_status(), nr), layout = layout_of(arch, nr);
	__u64 args[6];

	if (thread->flags & (THREAD_NEWBORN | THREAD_IN_CALL))
		begin_oddly(thread);
	if (layout) {
		read_args(args, regs, arch);
		if (layout & LAYOUT_MAPS_FILE && args[2] & PROT_EXEC) {
			if (flags)
				flags |= THREAD_MAPS_CODE;
			else
				note_mapped(args[4]); /* its end is not watched */
		}
		count_call(thread, arch, nr, layout, args);
	} else {
		count_call(thread, arch, nr, 0, 0);
	}
	thread->flags = flags;
}

/* --------------------------------------------------------------------------------------- ending a call */

static __always_inline int is_error(__s64 ret)
{
	return ret < 0 && ret >= -MAX_ERRNO;
}

static __always_inline void count_return(struct slot *slot, __s64 ret)
{
	if (!is_error(ret)) {
		slot->cell.last_return = 0;
		return;
	}
	/* ERESTARTSYS … ERESTART_RESTARTBLOCK: neither success nor failure (include/linux/errno.h). */
	if (ret == -512 || ret == -513 || ret == -514 || ret == -516) {
		slot->cell.unended++;
	} else {
		slot->cell.failed++;
		slot->cell.errors |= ret > -64 ? 1ULL << (-ret & 63) : 1;
	}
	slot->cell.last_return = -ret;
}

/* Count a call that seccomp answered.
 *
 * For trap and kill it puts the number back where the return value will be (syscall_rollback) and sends SIGSYS. A
 * filter can make read, whose number is 0, return 0 as well; that looks the same.
 */
ONCE int count_refused(struct thread *thread, __u64 arch_nr, const struct arguments *args, __s64 ret, __u32 flags)
{
	__u32 arch = arch_nr >> 32, nr = arch_nr;
	int is_signal = (__u32)ret == nr;
	struct slot *slot;

	if (!thread || !args)
		return 0;
	/* The end of an older call, unless it failed: whoever knows the filter can tell the two apart. */
	if (flags & THREAD_UNSURE && !is_signal && (!is_error(ret) || (ret <= -512 && ret >= -516)))
		return 0;
	slot = count_call(thread, arch, nr, layout_of(arch, nr), args->of);
	if (flags & THREAD_UNSURE) {
		slot->cell.doubtful++;
		slot->cell.last_return = is_signal ? RETURN_SIGNAL : -ret;
		return 0;
	}
	slot->cell.refused++;
	if (is_signal) {
		slot->cell.failed++;
		slot->cell.errors |= 1;
		slot->cell.last_return = RETURN_SIGNAL;
	} else {
		count_return(slot, ret);
	}
	return 0;
}

/* A call ends that did not pass sys_enter: it is no member's, or seccomp answered it. */
static __always_inline void on_answered(struct thread *thread, __u32 arch, __u32 nr, const __u64 *args, __s64 ret)
{
	__u32 flags = thread->flags;

	if (flags & THREAD_NEWBORN)
		born(thread, is_caller_leader());
	thread->flags = 0;
	if (!(flags & THREAD_SKIP_EXIT))
		count_refused(thread, (__u64)arch << 32 | nr, (void *)args, ret, flags);
}

/* ------------------------------------------------------------------------------------ births and deaths */

/* Make room for a thread that is none yet, and follow it from here on. */
APART struct thread *new_member(__u32 tid)
{
	struct totals *all = totals_of();
	struct thread *thread = 0;
	__u32 at = 0;

	if (!all)
		return 0;
	if (bpf_map_pop_elem(MAP(spare), &at) != 0)
		at = all->next_member < 1u << 30 ? FETCH_ADD(&all->next_member, 1) : 1u << 30;
	thread = LOOKUP(members, &at);
	if (!thread) {
		ADD(&all->threads_full, 1);
		return 0;
	}
	thread->regs = 0;
	thread->tick = 0;
	thread->program = thread->process = 0;
	thread->flags = THREAD_NEWBORN | THREAD_SKIP_EXIT;
	for (int i = 0; i < THREAD_CELLS / 64; i++)
		thread->cells[i] = 0;
	for (int i = 0; i < SLOTS; i++)
		thread->slots[i].cell.count = 0;
	if (INSERT(threads, &tid, &at) != 0) {
		bpf_map_push_elem(MAP(spare), &at, BPF_ANY);
		ADD(&all->threads_full, 1);
		return 0;
	}
	ADD(&all->live, 1);
	return thread;
}

static __always_inline void on_fork(__u32 parent_tid, __u32 child_tid, __u64 child_stack)
{
	struct thread *parent = thread_of(parent_tid), *child;
	struct totals *all;

	if (!parent)
		return;
	child = new_member(child_tid);
	if (!child)
		return;
	child->program = parent->program;
	child->process = parent->process;
	all = totals_of();
	if (all && all->regs_at)
		forget_stranger(child_stack + all->regs_at); /* that had the stack before */
	else
		begin_era();
}

/* A member's process runs another program now. The execve itself is still counted for the old one. */
static __always_inline void on_exec(__u32 tid, __u32 old_tid, __u32 program)
{
	struct thread *thread;
	__u32 *found, at;

	if (tid != old_tid) {
		/* Its thread has taken the place and the id of the leader, which has ended. */
		found = LOOKUP(threads, &old_tid);
		if (!found)
			return;
		at = *found;
		INSERT(threads, &tid, &at);
		DELETE(threads, &old_tid);
	}
	thread = thread_of(tid);
	if (thread)
		thread->program = program;
}

/* Make the caller a member; a process's first thread brings the process with it. */
APART struct thread *adopt(__u32 tid, __u32 tgid)
{
	struct thread *leader = thread_of(tgid), *thread;

	if (!leader)
		leader = new_member(tgid);
	begin_era();
	if (tid == tgid || !leader)
		return leader;
	if (leader->flags & THREAD_NEWBORN)
		born(leader, 1);
	thread = new_member(tid);
	if (thread)
		thread->process = leader->process;
	return thread;
}

/* Let go of a member. Returns 1 when none is left. */
APART int forget(__u32 tid)
{
	__u32 *found = LOOKUP(threads, &tid), at;
	struct totals *all = totals_of();
	struct thread *thread;

	if (!found || !all)
		return 0;
	at = *found;
	thread = LOOKUP(members, &at);
	if (!thread || DELETE(threads, &tid) != 0)
		return 0;
	thread->regs = 0;
	bpf_map_push_elem(MAP(spare), &at, BPF_ANY);
	return FETCH_ADD(&all->live, -1) == 1;
}

/* The caller ends. Returns 1 when no thread is left. */
static __always_inline int on_end(void)
{
	__u32 tid = bpf_get_current_pid_tgid(), process_id;
	struct thread *thread = thread_of(tid);
	struct process *process;

	if (!thread)
		return 0;
	begin_oddly(thread);
	for (int i = 0; i < SLOTS; i++)
		flush(thread, &thread->slots[i]);
	process_id = thread->process;
	process = LOOKUP(processes, &process_id);
	if (process && FETCH_ADD(&process->threads, -1) == 1)
		DELETE(processes, &process_id);
	return forget(tid);
}

#endif
