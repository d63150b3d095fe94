#include "textflag.h"

#define SYS_write 64

// faults are the signals that the kernel makes of what a thread does: ILL, TRAP,
// BUS, FPE, SEGV, SYS. Bit n is signal n.
#define faults 0x800009B0

// handler is the signal handler: signal in R0, *siginfo_t in R1, context in R2. It
// writes the start of siginfo_t to the pipe, and leaves faults of the program's own
// (si_code > 0) to the runtime's handler.
TEXT ·handler(SB),NOSPLIT|NOFRAME,$0
	MOVW	8(R1), R3
	CMPW	$0, R3
	BLE	send
	MOVWU	0(R1), R4
	MOVD	$faults, R3
	LSR	R4, R3, R3
	TBNZ	$0, R3, fault
send:
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
