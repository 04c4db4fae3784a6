package loopback

// sysSetns is setns(2)'s number, which package syscall lacks.
const sysSetns = 339
