package wire

// MaxTerminfo is the size of the largest compiled terminfo entry that ncurses
// reads (MAX_ENTRY_SIZE2 in its term.h).
const MaxTerminfo = 32 << 10

// maxTerminfoName is the length of the longest name (MAX_NAME_SIZE in term.h).
const maxTerminfoName = 512

// TerminfoName reports whether a value of TERM names an entry: it is a file's name,
// too.
func TerminfoName(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '/' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= maxTerminfoName && s[0] != '.'
}

// IsTerminfo reports whether b begins as a compiled entry does: term(5), with
// numbers of 16 or of 32 bits.
func IsTerminfo(b []byte) bool {
	return len(b) >= 12 && (b[0] == 0x1a && b[1] == 0x01 || b[0] == 0x1e && b[1] == 0x02)
}
