#include "textflag.h"

// Numbers of system calls, and of limits, of Linux on amd64.
#define SYS_read 0
#define SYS_write 1
#define SYS_open 2
#define SYS_close 3
#define SYS_writev 20
#define SYS_execve 59
#define SYS_fchdir 81
#define SYS_setrlimit 160
#define SYS_exit_group 231
#define RLIMIT_CORE 4
#define RLIMIT_NOFILE 7
#define O_WRONLY 1
#define ENOENT 2

// startGate is a program of its own: the kernel enters it with argc, argv and the environment at SP, and nothing of Go is
// there. Its arguments are the file of its OOM score, the cgroups to enter, an empty one, and those of the VMM; what it
// reads of file 3 is a goAhead. R13 is the first SP, R12 where the next argument is, R14 the path that an error is about.
TEXT startGate<>(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ SP, R13
	SUBQ $128, SP
	LEAQ 16(R13), R12

	// The score is no reason to fail.
	MOVQ 0(R12), DI
	ADDQ $8, R12
	MOVQ $O_WRONLY, SI
	XORL DX, DX
	MOVQ $SYS_open, AX
	SYSCALL
	CMPQ AX, $0
	JLT  join
	MOVQ AX, R15
	MOVL $0x303035, 0(SP) // "500"
	MOVQ R15, DI
	LEAQ 0(SP), SI
	MOVQ $3, DX
	MOVQ $SYS_write, AX
	SYSCALL
	MOVQ R15, DI
	MOVQ $SYS_close, AX
	SYSCALL

join:
	MOVQ 0(R12), R14
	ADDQ $8, R12
	CMPB 0(R14), $0
	JEQ  joined
	MOVQ R14, DI
	MOVQ $O_WRONLY, SI
	XORL DX, DX
	MOVQ $SYS_open, AX
	SYSCALL
	CMPQ AX, $0
	JLT  refused
	MOVQ AX, R15
	MOVL $0x30, 0(SP) // "0": who writes it
	MOVQ R15, DI
	LEAQ 0(SP), SI
	MOVQ $1, DX
	MOVQ $SYS_write, AX
	SYSCALL
	CMPQ AX, $0
	JLT  refused
	MOVQ R15, DI
	MOVQ $SYS_close, AX
	SYSCALL
	JMP  join

joined:
	MOVQ 0(R12), R14
	MOVQ $0, 0(SP)
	MOVQ $0, 8(SP)
	MOVQ $RLIMIT_CORE, DI
	LEAQ 0(SP), SI
	MOVQ $SYS_setrlimit, AX
	SYSCALL

	// It waits here.
	MOVQ $3, DI
	LEAQ 0(SP), SI
	MOVQ $24, DX
	MOVQ $SYS_read, AX
	SYSCALL
	MOVQ $1, BX
	CMPQ AX, $24
	JNE  exit
	MOVQ $3, DI
	MOVQ $SYS_close, AX
	SYSCALL
	MOVQ 16(SP), DI // its own file
	MOVQ $SYS_close, AX
	SYSCALL
	MOVQ 8(SP), R15
	MOVQ 0(SP), DX
	CMPQ DX, $0
	JEQ  directory
	MOVQ DX, 8(SP)
	MOVQ $RLIMIT_NOFILE, DI
	LEAQ 0(SP), SI
	MOVQ $SYS_setrlimit, AX
	SYSCALL
	CMPQ AX, $0
	JLT  refused

directory:
	CMPQ R15, $0
	JEQ  become
	MOVQ $4, DI
	MOVQ $SYS_fchdir, AX
	SYSCALL
	CMPQ AX, $0
	JLT  refused
	MOVQ $4, DI
	MOVQ $SYS_close, AX
	SYSCALL

become:
	MOVQ R14, DI
	MOVQ R12, SI
	MOVQ 0(R13), DX
	LEAQ 16(R13)(DX*8), DX // the environment is behind the arguments
	MOVQ $SYS_execve, AX
	SYSCALL
	MOVQ $127, BX
	CMPQ AX, $-ENOENT
	JEQ  tell

refused:
	MOVQ $126, BX

tell: // "metald-gate: errno 013: ", the path, and a line's end
	NEGQ AX
	XORL DX, DX
	MOVQ $100, CX
	DIVQ CX
	ADDQ $0x30, AX
	MOVQ AX, R8
	MOVQ DX, AX
	XORL DX, DX
	MOVQ $10, CX
	DIVQ CX
	ADDQ $0x30, AX
	ADDQ $0x30, DX
	MOVQ $0x672d646c6174656d, CX // "metald-g"
	MOVQ CX, 0(SP)
	MOVQ $0x7265203a657461, CX // "ate: er"
	MOVQ CX, 8(SP)
	MOVQ $0x206f6e72, CX // "rno "
	MOVQ CX, 15(SP)
	MOVB R8, 19(SP)
	MOVB AX, 20(SP)
	MOVB DX, 21(SP)
	MOVW $0x203a, 22(SP) // ": "
	MOVB $0x0a, 24(SP)
	LEAQ 0(SP), CX
	MOVQ CX, 32(SP)
	MOVQ $24, 40(SP)
	MOVQ R14, 48(SP)
	XORL DX, DX

length:
	CMPB 0(R14)(DX*1), $0
	JEQ  measured
	INCQ DX
	JMP  length

measured:
	MOVQ DX, 56(SP)
	LEAQ 24(SP), CX
	MOVQ CX, 64(SP)
	MOVQ $1, 72(SP)
	MOVQ $2, DI
	LEAQ 32(SP), SI
	MOVQ $3, DX
	MOVQ $SYS_writev, AX
	SYSCALL

exit:
	MOVQ BX, DI
	MOVQ $SYS_exit_group, AX
	SYSCALL

	// The end, for who copies this.
	QUAD $0x646e652065746167
	QUAD $0x0a65746167206f6e

// func startGateCode() *byte
TEXT ·startGateCode(SB), NOSPLIT, $0-8
	LEAQ startGate<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET
