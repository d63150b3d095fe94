package wire

// Offsets and flags of struct termios2.
const (
	termiosOutput = 4 // c_oflag
	flagOPOST     = 1
	flagONLCR     = 4
)

// TerminalOutput is what to write to a terminal with these modes (struct termios2)
// so that it shows b, which the guest's pty has processed: where the host's
// terminal will make CR LF of LF too, the CR before a LF goes. The result shares
// b's memory.
func TerminalOutput(termios, b []byte) []byte {
	if len(termios) < termiosOutput+4 || le32(termios[termiosOutput:])&(flagOPOST|flagONLCR) != flagOPOST|flagONLCR {
		return b
	}
	kept := b[:0]
	for i, c := range b {
		if c == '\r' && i+1 < len(b) && b[i+1] == '\n' {
			continue
		}
		kept = append(kept, c)
	}
	return kept
}
