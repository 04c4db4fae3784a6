package main

// entry is where the kernel enters the program when it is linked so (-E main.entry, as the
// Makefile does). What it does is done before the runtime starts, for asked for later it
// costs more than it saves:
//   - The timer slack becomes 1 ms, so that the runtime's watch (sysmon), which would wake
//     fourteen times a millisecond, does so once.
//   - GOMAXPROCS=1 is added to the environment: no thread is started that has nothing to do,
//     and the watch sleeps while felix is at work.
//
// Then it goes on to where every Go program begins.
func entry() //nolint:unused // the linker uses it
