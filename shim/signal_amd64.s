#include "textflag.h"

#define SYS_write 1

// faults are the signals that the kernel makes of what a thread does: ILL, TRAP,
// BUS, FPE, SEGV, SYS. Bit n is signal n.
#define faults 0x800009B0

// handler is the signal handler: signal in DI, *siginfo_t in SI, context in DX. It
// writes the start of siginfo_t to the pipe, and leaves faults of the program's own
// (si_code > 0) to the runtime's handler.
TEXT ·handler(SB),NOSPLIT|NOFRAME,$0
	MOVL	8(SI), AX
	CMPL	AX, $0
	JLE	send
	MOVL	0(SI), CX
	MOVL	$faults, AX
	BTQ	CX, AX
	JCS	fault
send:
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
