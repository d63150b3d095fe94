package completions

import (
	"strings"
	"unicode/utf8"
)

// A Word is one word of a command line, up to the cursor.
type Word struct {
	Text string // without its quotes
	// Raw is the word as it was typed, where it has something in it that the shell
	// would expand, so that Text can't say what the command would get; else "".
	Raw string
	// Typed is the word as it was typed, quotes and all; "" if that isn't known.
	Typed string
}

// ParseBash takes a simple command apart as bash does, up to point, which counts
// characters as COMP_POINT does. The last word is the one at the cursor; it is
// empty after a blank. Quotes may be open at the end.
func ParseBash(line string, point int) []Word {
	if point >= 0 && point < utf8.RuneCountInString(line) {
		line = string([]rune(line)[:point])
	}
	var words []Word
	for i := 0; ; {
		for i < len(line) && isBlank(line[i]) {
			i++
		}
		if i == len(line) {
			// A blank at the end begins a word; so does an empty line.
			return append(words, Word{})
		}
		w, n := parseWord(line[i:])
		words = append(words, w)
		i += n
		if i == len(line) {
			return words
		}
	}
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' }

// parseWord reads one word and returns how many bytes it takes.
func parseWord(s string) (Word, int) {
	var text strings.Builder
	expands := false
	i := 0
	for i < len(s) && !isBlank(s[i]) {
		switch c := s[i]; {
		case c == '\\':
			if i+1 < len(s) {
				if s[i+1] != '\n' {
					text.WriteByte(s[i+1])
				}
				i++
			}
			i++
		case c == '\'' || c == '$' && strings.HasPrefix(s[i:], "$'"):
			if c == '$' {
				i++
			}
			end := strings.IndexByte(s[i+1:], '\'')
			if c == '$' && strings.Contains(s[i+1:], `\`) {
				expands = true // \n and the like
			}
			if end < 0 {
				text.WriteString(s[i+1:])
				i = len(s)
				break
			}
			text.WriteString(s[i+1 : i+1+end])
			i += end + 2
		case c == '"':
			n, x := parseDouble(s[i+1:], &text)
			expands = expands || x
			i += n + 1
		case c == '$' || c == '`' || c == '~' && i == 0:
			expands = expands || c != '$' || i+1 < len(s)
			n := skipExpansion(s[i:])
			text.WriteString(s[i : i+n])
			i += n
		default:
			text.WriteByte(c)
			i++
		}
	}
	w := Word{Text: text.String(), Typed: s[:i]}
	if expands {
		w.Raw = s[:i]
	}
	return w, i
}

// parseDouble reads what is in double quotes and the quote at the end, if it is
// there.
func parseDouble(s string, text *strings.Builder) (n int, expands bool) {
	i := 0
	for i < len(s) {
		switch c := s[i]; {
		case c == '"':
			return i + 1, expands
		case c == '\\' && i+1 < len(s) && strings.IndexByte("$`\"\\\n", s[i+1]) >= 0:
			if s[i+1] != '\n' {
				text.WriteByte(s[i+1])
			}
			i += 2
		case c == '$' || c == '`':
			expands = expands || c != '$' || i+1 < len(s)
			k := skipExpansion(s[i:])
			text.WriteString(s[i : i+k])
			i += k
		default:
			text.WriteByte(c)
			i++
		}
	}
	return i, expands
}

// skipExpansion is how long $(...), ${...} or `...` is; 1 for anything else.
func skipExpansion(s string) int {
	var open, shut byte
	switch {
	case s[0] == '`':
		if end := strings.IndexByte(s[1:], '`'); end >= 0 {
			return end + 2
		}
		return len(s)
	case strings.HasPrefix(s, "$("):
		open, shut = '(', ')'
	case strings.HasPrefix(s, "${"):
		open, shut = '{', '}'
	default:
		return 1
	}
	depth := 0
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case open:
			depth++
		case shut:
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

// QuoteBash writes text so that bash reads it as one word: with backslashes, as
// readline does, for completion functions look at the words as they stand.
func QuoteBash(text string) string {
	if text == "" {
		return "''"
	}
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case c == '\n':
			b.WriteString(`$'\n'`)
			continue
		case strings.IndexByte("\t !\"#$&'()*;<>?[\\]^`{|}", c) >= 0 && (c != '#' || i == 0), c == '~' && i == 0:
			b.WriteByte('\\')
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// single writes text in single quotes, for bash code.
func single(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// UnquoteBash takes the quotes of one word away. ok is false if the word would
// be expanded, is more than one, or has a quote that is open.
func UnquoteBash(raw string) (text string, ok bool) {
	if !strings.ContainsAny(raw, "\\'\"$`~ \t\n") {
		return raw, true
	}
	// A quote that is open takes the blank in.
	w, n := parseWord(raw + " ")
	return w.Text, n == len(raw) && w.Raw == ""
}

// A Command is a command line as bash presents it to a completion function.
type Command struct {
	Name  string   // the command that is completed
	Line  string   // COMP_LINE, up to the cursor
	Point int      // COMP_POINT: characters of Line
	Words []string // COMP_WORDS: Line split at Breaks
	Index int      // COMP_CWORD
	Cur   string   // what is to be completed, without its quotes
	Prev  string   // the word before
	// Head is what the word at the cursor has before Cur: "--opt=" of "--opt=va".
	Head string
	// Expands is whether the word at the cursor has something in it that only the
	// host's shell can expand.
	Expands bool

	typed string // the word at the cursor; "" if that isn't known
}

// Breaks are the COMP_WORDBREAKS of an interactive bash that has loaded
// bash-completion, which switches hostcomplete off and so takes the @ away.
const Breaks = " \t\n\"'><=;|&(:"

// NewCommand makes a Command of at least one word. The first is the command's
// name.
func NewCommand(words []Word) Command {
	c := Command{Name: words[0].Text}
	for i, w := range words {
		raw := w.Raw
		if raw == "" && (w.Text != "" || i < len(words)-1) {
			raw = QuoteBash(w.Text)
		}
		if i > 0 {
			c.Line += " "
		}
		c.Line += raw
		parts := splitBreaks(raw)
		if i == len(words)-1 {
			c.Head, c.Cur = cutHead(raw, Breaks)
			c.Expands, c.typed = w.Raw != "", w.Typed
			if len(parts) == 0 {
				parts = []string{""}
			}
		}
		c.Words = append(c.Words, parts...)
	}
	c.Point = utf8.RuneCountInString(c.Line)
	c.Index = len(c.Words) - 1
	if c.Index > 0 {
		c.Prev = c.Words[c.Index-1]
	}
	return c
}

// splitBreaks splits one raw word as bash's split_at_delims (subst.c) does: runs
// of break characters that are not quoted are words of their own.
func splitBreaks(raw string) []string {
	var parts []string
	start, inRun := 0, false
	for i := 0; i < len(raw); {
		n, isBreak := step(raw[i:])
		if isBreak != inRun && i > start {
			parts = append(parts, raw[start:i])
			start = i
		}
		inRun = isBreak
		i += n
	}
	if start < len(raw) {
		parts = append(parts, raw[start:])
	}
	return parts
}

// step is the length of what raw begins with: a quoted or expanded stretch, or a
// byte, and then whether that byte is a break.
func step(raw string) (n int, isBreak bool) {
	switch c := raw[0]; {
	case c == '\\' && len(raw) > 1:
		return 2, false
	case c == '\'' || c == '$' && strings.HasPrefix(raw, "$'"):
		at := strings.IndexByte(raw, '\'') + 1
		if end := strings.IndexByte(raw[at:], '\''); end >= 0 {
			return at + end + 1, false
		}
		return len(raw), false
	case c == '"':
		var unused strings.Builder
		n, _ := parseDouble(raw[1:], &unused)
		return n + 1, false
	case c == '$' || c == '`':
		return skipExpansion(raw), false
	default:
		return 1, strings.IndexByte(Breaks, c) >= 0
	}
}

// cutHead splits a raw word behind the last of breaks, and takes the quotes away.
func cutHead(raw, breaks string) (head, cur string) {
	at := 0
	for i := 0; i < len(raw); {
		n, _ := step(raw[i:])
		i += n
		if n == 1 && strings.IndexByte(breaks, raw[i-1]) >= 0 {
			at = i
		}
	}
	h, _ := parseAll(raw[:at])
	c, _ := parseAll(raw[at:])
	return h, c
}

func parseAll(raw string) (string, bool) {
	w, n := parseWord(raw)
	if n < len(raw) {
		return raw, false
	}
	return w.Text, true
}

// ParseWord reads the word at the cursor as a shell other than bash has it: zsh
// and PowerShell with quotes that mean what they do in bash, fish with its own.
func ParseWord(shell, raw string) Word {
	if shell != "fish" {
		w, n := parseWord(raw)
		if n < len(raw) { // a blank that is not quoted: not from a command line
			return Word{Text: raw}
		}
		w.Typed = ""
		return w
	}
	var text strings.Builder
	quote, expands := byte(0), strings.HasPrefix(raw, "~")
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == '\\' && i+1 < len(raw) && (quote == 0 || raw[i+1] == '\\' || raw[i+1] == quote || quote == '"' && raw[i+1] == '$'):
			i++
			text.WriteByte(raw[i])
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case c == quote && quote != 0:
			quote = 0
		default:
			expands = expands || quote != '\'' && (c == '$' || c == '(')
			text.WriteByte(c)
		}
	}
	w := Word{Text: text.String()}
	if expands {
		w.Raw = raw
	}
	return w
}
