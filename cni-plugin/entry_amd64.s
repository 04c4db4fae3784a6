#include "textflag.h"

#define SYS_prctl 157
#define PR_SET_TIMERSLACK 29
#define SLACK 1000000 // ns

DATA one<>+0(SB)/8, $"GOMAXPRO"
DATA one<>+8(SB)/8, $"CS=1\x00\x00\x00\x00"
GLOBL one<>(SB), RODATA, $16

// The stack is as the kernel leaves it: argc, argv…, 0, environment…, 0, auxiliary
// vector…. What is before the environment's end moves down by a word, so that there
// is room for one variable more. It is the last: one that is set already comes first.
TEXT ·entry(SB), NOSPLIT|NOFRAME, $0
	MOVQ $SYS_prctl, AX
	MOVQ $PR_SET_TIMERSLACK, DI
	MOVQ $SLACK, SI
	SYSCALL
	MOVQ 0(SP), CX
	LEAQ 16(SP)(CX*8), SI // the environment
find:
	MOVQ 0(SI), AX
	ADDQ $8, SI
	TESTQ AX, AX
	JNZ  find
	SUBQ $8, SI // its end
	MOVQ SP, DI
move:
	MOVQ 0(DI), AX
	MOVQ AX, -8(DI)
	ADDQ $8, DI
	CMPQ DI, SI
	JNE  move
	LEAQ one<>(SB), AX
	MOVQ AX, -8(SI)
	SUBQ $8, SP
	JMP  _rt0_amd64_linux(SB)
