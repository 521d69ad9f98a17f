/* The maps of the probes. A loader that makes them itself reads this list (autoprofile/trace/ebpf/records.py).
 *
 * Preallocated where a failed allocation would lose something.
 */
HASH_MAP(threads, __u32, __u32, 8192, 0) /* id -> place in `members` */
ARRAY_MAP(members, struct thread, 8192)
STACK_MAP(spare, __u32, 8192) /* places in `members` that are free again */
ARRAY_MAP(places, __u32, 16384) /* address of registers, hashed -> place in `members`, perhaps another thread's */
ARRAY_MAP(strangers, __u64, 16384) /* address of registers, hashed -> that they are no member's */
HASH_MAP(processes, __u32, struct process, 4096, 0)
HASH_MAP(cells, struct cell_key, struct cell, 16384, 0)
HASH_MAP(plain, __u64, struct cell, 4096, 0)
ARRAY_MAP(spilled, struct spilled, 4096) /* arch * LAYOUT_NRS + number; the last of each for unknown numbers */
HASH_MAP(files, struct file_key, __u32, 4096, 0)
HASH_MAP(seen, struct seen_key, __u8, 262144, BPF_F_NO_PREALLOC)
ARRAY_MAP(layouts, struct layouts, 1)
ARRAY_MAP(conditions, struct condition, 64)
ARRAY_MAP(configs, struct config, 1)
ARRAY_MAP(totals, struct totals, 1)
ARRAY_MAP(blank, struct process, 1)
RING_MAP(events, 4194304) /* a thousand programs and libraries not yet read */
