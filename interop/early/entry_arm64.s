#include "textflag.h"

// System calls, linux/arm64.
#define SYS_fcntl 25
#define SYS_rt_sigaction 134
#define SYS_rt_sigprocmask 135
#define SYS_prlimit64 261

#define SIG_BLOCK 0
#define SIG_IGN 1
#define F_GETFD 1
#define RLIMIT_NOFILE 7

// Offsets in record, whose address is in R19 (a system call keeps all registers
// but R0).
#define recorded 0(R19)
#define stack 8(R19)
#define blocked 16(R19)
#define open 24(R19)
#define nofile 32
#define ignored 48(R19)
#define scratch 56

// entryBlocked is entry, and blocks all signals.
TEXT ·entryBlocked(SB),NOSPLIT|NOFRAME,$0
	MOVD	$-1, R20
	B	begin<>(SB)

// entry is where the kernel starts the program: the stack pointer is at argc,
// nothing else is set up. No stack is used, so that the runtime finds it as the
// kernel left it.
TEXT ·entry(SB),NOSPLIT|NOFRAME,$0
	MOVD	$0, R20
	B	begin<>(SB)

// begin blocks the signals in R20, fills in record, and goes on to the runtime's
// own entry.
TEXT begin<>(SB),NOSPLIT|NOFRAME,$0
	MOVD	$·record(SB), R19
	MOVD	$1, R0
	MOVD	R0, recorded
	MOVD	RSP, R0
	MOVD	R0, stack

	MOVD	R20, scratch(R19)
	MOVD	$SIG_BLOCK, R0
	ADD	$scratch, R19, R1
	ADD	$16, R19, R2
	MOVD	$8, R3
	MOVD	$SYS_rt_sigprocmask, R8
	SVC

	// Descriptors 0 to 2: F_GETFD fails on a closed one.
	MOVD	$0, R21 // descriptor
	MOVD	$0, R22 // those open
	MOVD	$1, R23
descriptor:
	MOVD	R21, R0
	MOVD	$F_GETFD, R1
	MOVD	$0, R2
	MOVD	$SYS_fcntl, R8
	SVC
	TBNZ	$63, R0, closed
	LSL	R21, R23, R24
	ORR	R24, R22, R22
closed:
	ADD	$1, R21, R21
	CMP	$3, R21
	BLT	descriptor
	MOVD	R22, open

	MOVD	$0, R0
	MOVD	$RLIMIT_NOFILE, R1
	MOVD	$0, R2
	ADD	$nofile, R19, R3
	MOVD	$SYS_prlimit64, R8
	SVC

	// Signals 1 to 64: the handler is the first word of struct sigaction.
	MOVD	$1, R21
	MOVD	$0, R22
signal:
	MOVD	R21, R0
	MOVD	$0, R1
	ADD	$scratch, R19, R2
	MOVD	$8, R3
	MOVD	$SYS_rt_sigaction, R8
	SVC
	MOVD	scratch(R19), R24
	CMP	$SIG_IGN, R24
	BNE	handled
	SUB	$1, R21, R25
	LSL	R25, R23, R24
	ORR	R24, R22, R22
handled:
	ADD	$1, R21, R21
	CMP	$65, R21
	BLT	signal
	MOVD	R22, ignored

	B	_rt0_arm64_linux(SB)
