#include "textflag.h"

#define SYS_write 64

// handler is the signal handler of those signals that Go's runtime never leaves
// blocked: signal in R0, *siginfo_t in R1, context in R2. It writes the start of
// siginfo_t to the pipe where somebody sent the signal (si_code <= 0), and leaves
// it to the runtime's handler where the kernel made it, a fault for one.
TEXT ·handler(SB),NOSPLIT|NOFRAME,$0
	MOVW	8(R1), R3
	CMPW	$0, R3
	BGT	fault
	MOVW	·signalPipe(SB), R0
	MOVD	$20, R2
	MOVD	$SYS_write, R8
	SVC
	RET
fault:
	MOVD	·runtimeHandler(SB), R3
	JMP	(R3)

// func handlerAddress() uintptr
TEXT ·handlerAddress(SB),NOSPLIT,$0-8
	MOVD	$·handler(SB), R0
	MOVD	R0, ret+0(FP)
	RET
