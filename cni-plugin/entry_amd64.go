package main

// entry is where the kernel enters the program, where it is linked so (-E main.entry, as
// the Makefile does). It adds GOMAXPROCS=1 to the environment and goes on to where a Go
// program begins: the runtime then starts no threads that have nothing to do, and its
// watch (sysmon) sleeps while felix is at work. Asked for later, by [runtime.GOMAXPROCS],
// it costs more than it saves.
func entry()
