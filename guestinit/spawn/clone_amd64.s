#include "textflag.h"

// func clone3(args *cloneArgs, entry uintptr, p unsafe.Pointer) uintptr
//
// The child runs on the stack that args names and calls entry, an ABI0 function,
// with p. It has the memory of its parent, so it must not return.
TEXT ·clone3(SB), NOSPLIT, $0-32
	MOVQ args+0(FP), DI
	MOVQ entry+8(FP), R12
	MOVQ p+16(FP), R13
	MOVQ $88, SI  // CLONE_ARGS_SIZE_VER2: with the cgroup field
	MOVQ $435, AX // SYS_clone3
	SYSCALL       // keeps all registers but AX, CX and R11
	CMPQ AX, $0
	JEQ  child
	MOVQ AX, ret+24(FP)
	RET

child:
	XORQ BP, BP      // the end of the frames
	ANDQ $~15, SP
	SUBQ $32, SP
	MOVQ R13, 0(SP)  // the argument of an ABI0 call
	CALL R12
	INT  $3

// func sitterEntry() uintptr
TEXT ·sitterEntry(SB), NOSPLIT, $0-8
	LEAQ ·sitter(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func commandEntry() uintptr
TEXT ·commandEntry(SB), NOSPLIT, $0-8
	LEAQ ·command(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func reaperEntry() uintptr
TEXT ·reaperEntry(SB), NOSPLIT, $0-8
	LEAQ ·reaper(SB), AX
	MOVQ AX, ret+0(FP)
	RET
