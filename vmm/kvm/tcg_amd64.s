#include "textflag.h"

// func cpuidOf(leaf uint32) (ebx, ecx, edx uint32)
TEXT ·cpuidOf(SB), NOSPLIT, $0-20
	MOVL leaf+0(FP), AX
	XORL CX, CX
	CPUID
	MOVL BX, ebx+8(FP)
	MOVL CX, ecx+12(FP)
	MOVL DX, edx+16(FP)
	RET
