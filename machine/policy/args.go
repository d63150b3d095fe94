package policy

import "strings"

// MatchArgs reports whether arguments are what a pattern describes. A pattern is
// words with blanks between, one for each argument, so that no argument can pass
// for two, or two for one. In a word * stands for any bytes, ? for any one, and a
// backslash takes the meaning of the byte after it, a blank's too. A last word ...
// stands for any further arguments. An empty pattern is no argument at all.
func MatchArgs(pattern string, args []string) bool {
	words := splitPattern(pattern)
	if n := len(words); n > 0 && words[n-1] == "..." {
		words = words[:n-1]
		if len(args) < len(words) {
			return false
		}
		args = args[:len(words)]
	}
	if len(words) != len(args) {
		return false
	}
	for i, w := range words {
		if !matchWord(w, args[i]) {
			return false
		}
	}
	return true
}

// splitPattern cuts a pattern at its blanks.
func splitPattern(pattern string) []string {
	var words []string
	var word strings.Builder
	in := false
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '\\' && i+1 < len(pattern):
			word.WriteByte(c)
			i++
			word.WriteByte(pattern[i])
			in = true
		case c == ' ' || c == '\t' || c == '\n':
			if in {
				words = append(words, word.String())
			}
			word.Reset()
			in = false
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words
}

// matchWord matches one argument. It goes back to the last * only, so that the time
// that it takes is bounded by the product of both lengths, whatever a guest sends.
func matchWord(word, arg string) bool {
	star, mark := -1, 0
	w, a := 0, 0
	for a < len(arg) {
		if w < len(word) {
			c, size, literal := word[w], 1, false
			if c == '\\' && w+1 < len(word) {
				c, size, literal = word[w+1], 2, true
			}
			switch {
			case !literal && c == '*':
				star, mark = w, a
				w++
				continue
			case !literal && c == '?' || c == arg[a]:
				w += size
				a++
				continue
			}
		}
		if star < 0 {
			return false
		}
		mark++
		w, a = star+1, mark
	}
	for w < len(word) && word[w] == '*' {
		w++
	}
	return w == len(word)
}
