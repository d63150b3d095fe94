#include "textflag.h"

// System calls, linux/amd64.
#define SYS_rt_sigaction 13
#define SYS_rt_sigprocmask 14
#define SYS_fcntl 72
#define SYS_prlimit64 302

#define SIG_BLOCK 0
#define SIG_SETMASK 2
#define SIG_IGN 1
#define F_GETFD 1
#define RLIMIT_NOFILE 7

// Offsets in record.
#define recorded ·record+0(SB)
#define stack ·record+8(SB)
#define blocked ·record+16(SB)
#define open ·record+24(SB)
#define nofile ·record+32(SB)
#define ignored ·record+48(SB)
#define scratch ·record+56(SB)

// entryBlocked is entry, and blocks all signals.
TEXT ·entryBlocked(SB),NOSPLIT|NOFRAME,$0
	MOVQ	$-1, R12
	JMP	begin<>(SB)

// entry is where the kernel starts the program: the stack pointer is at argc,
// nothing else is set up. No stack is used, so that the runtime finds it as the
// kernel left it.
TEXT ·entry(SB),NOSPLIT|NOFRAME,$0
	XORL	R12, R12
	JMP	begin<>(SB)

// begin blocks the signals in R12, fills in record, and goes on to the runtime's
// own entry. SYSCALL clobbers RCX and R11.
TEXT begin<>(SB),NOSPLIT|NOFRAME,$0
	MOVQ	$1, recorded
	MOVQ	SP, stack

	MOVQ	R12, scratch
	MOVQ	$SYS_rt_sigprocmask, AX
	MOVQ	$SIG_BLOCK, DI
	LEAQ	scratch, SI
	LEAQ	blocked, DX
	MOVQ	$8, R10
	SYSCALL

	// Descriptors 0 to 2: F_GETFD fails on a closed one.
	XORL	BX, BX
descriptor:
	MOVQ	$SYS_fcntl, AX
	MOVQ	BX, DI
	MOVQ	$F_GETFD, SI
	XORL	DX, DX
	SYSCALL
	CMPQ	AX, $0
	JLT	closed
	BTSQ	BX, R13
	JMP	next
closed:
	BTRQ	BX, R13
next:
	INCQ	BX
	CMPQ	BX, $3
	JLT	descriptor
	ANDQ	$7, R13
	MOVQ	R13, open

	MOVQ	$SYS_prlimit64, AX
	XORL	DI, DI
	MOVQ	$RLIMIT_NOFILE, SI
	XORL	DX, DX
	LEAQ	nofile, R10
	SYSCALL

	// Signals 1 to 64: the handler is the first word of struct sigaction.
	XORL	R13, R13
	MOVQ	$1, BX
signal:
	MOVQ	$SYS_rt_sigaction, AX
	MOVQ	BX, DI
	XORL	SI, SI
	LEAQ	scratch, DX
	MOVQ	$8, R10
	SYSCALL
	MOVQ	scratch, CX
	CMPQ	CX, $SIG_IGN
	JNE	handled
	LEAQ	-1(BX), CX
	BTSQ	CX, R13
handled:
	INCQ	BX
	CMPQ	BX, $65
	JLT	signal
	MOVQ	R13, ignored

	XORL	DX, DX // atexit function of a dynamic linker: there is none
	JMP	_rt0_amd64_linux(SB)
