package main

import "unsafe"

// ptr is the address for a system call.
func ptr(p *int) unsafe.Pointer { return unsafe.Pointer(p) }
