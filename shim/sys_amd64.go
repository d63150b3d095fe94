package main

const (
	sysKcmp       = 312
	sysSignalFD4  = 289
	sysCloseRange = 436
	sysPidFDOpen  = 434
)
