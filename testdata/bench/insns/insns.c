/*
 * A plugin of QEMU's TCG that counts instructions: with no noise but that of
 * timers, for what waits executes none. One vCPU: the counters are not atomic.
 *
 *	-plugin insns.so,into=FILE,mark=ADDRESS,mark=ADDRESS,...
 *
 * FILE is memory shared with whoever maps it: the count so far, then what it was
 * when each mark's address was first executed, 64 bits each. FILE.profile gets,
 * at the first mark, a line for each block of code: its address, instructions.
 *
 * Debian has no package of qemu-plugin.h: what is declared here is of version 1
 * of the interface (include/qemu/qemu-plugin.h of QEMU 7.2).
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_INLINE_ADD_U64 = 0, QEMU_PLUGIN_CB_NO_REGS = 0 };
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);

int qemu_plugin_version = 1;

enum { MARKS = 16, BLOCKS = 1 << 20 };

static uint64_t *shared;
static uint64_t marks[MARKS];
static long n_marks;
static const char *path;

/* A block is by its address and length: what is translated again counts on. */
static struct block {
	uint64_t at, insns, runs;
} *blocks;

static struct block *block(uint64_t at, uint64_t insns)
{
	uint64_t h = (at * 0x9e3779b97f4a7c15u ^ insns * 0x632be59bd9b4e019u) >> 44;

	for (;; h = (h + 1) % BLOCKS) {
		if (!blocks[h].insns) {
			blocks[h].at = at;
			blocks[h].insns = insns;
		}
		if (blocks[h].at == at && blocks[h].insns == insns)
			return &blocks[h];
	}
}

static void profile(void)
{
	char name[4096];
	FILE *f;

	snprintf(name, sizeof(name), "%s.profile", path);
	f = fopen(name, "w");
	if (!f)
		return; /* whoever reads it sees that */
	for (long i = 0; i < BLOCKS; i++)
		if (blocks[i].runs)
			fprintf(f, "%llx %llu\n", (unsigned long long)blocks[i].at,
				(unsigned long long)(blocks[i].runs * blocks[i].insns));
	fclose(f);
}

static void reached(unsigned cpu, void *mark)
{
	uint64_t *at = &shared[1 + (long)mark];

	if (*at)
		return;
	*at = shared[0];
	if (mark == 0)
		profile();
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t n = qemu_plugin_tb_n_insns(tb);

	qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, shared, n);
	qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block(qemu_plugin_tb_vaddr(tb), n)->runs, 1);
	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

		for (long m = 0; m < n_marks; m++)
			if (qemu_plugin_insn_vaddr(insn) == marks[m])
				qemu_plugin_register_vcpu_insn_exec_cb(insn, reached, QEMU_PLUGIN_CB_NO_REGS, (void *)m);
	}
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "into=", 5))
			path = strdup(argv[i] + 5);
		else if (!strncmp(argv[i], "mark=", 5) && n_marks < MARKS)
			marks[n_marks++] = strtoull(argv[i] + 5, NULL, 0);
		else
			return 1;
	}
	int fd = path ? open(path, O_RDWR) : -1;

	if (fd < 0)
		return 1;
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	blocks = calloc(BLOCKS, sizeof(*blocks));
	if (shared == MAP_FAILED || !blocks)
		return 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	return 0;
}
