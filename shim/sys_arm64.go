package main

const (
	sysKcmp       = 272
	sysSignalFD4  = 74
	sysCloseRange = 436
	sysPidFDOpen  = 434
)
