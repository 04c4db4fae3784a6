//go:build arm64 || riscv64 || loong64

package loopback

// sysSetns is setns(2)'s number, which package syscall lacks.
const sysSetns = 268
