#include "textflag.h"

#define SYS_write 1

// handler is the signal handler of those signals that Go's runtime never leaves
// blocked: signal in DI, *siginfo_t in SI, context in DX. It writes the start of
// siginfo_t to the pipe where somebody sent the signal (si_code <= 0), and leaves
// it to the runtime's handler where the kernel made it, a fault for one.
TEXT ·handler(SB),NOSPLIT|NOFRAME,$0
	MOVL	8(SI), AX
	CMPL	AX, $0
	JGT	fault
	MOVQ	$SYS_write, AX
	MOVLQSX	·signalPipe(SB), DI
	MOVQ	$20, DX
	SYSCALL
	RET
fault:
	MOVQ	·runtimeHandler(SB), AX
	JMP	AX

// func handlerAddress() uintptr
TEXT ·handlerAddress(SB),NOSPLIT,$0-8
	LEAQ	·handler(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
