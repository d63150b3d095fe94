package policy

import (
	"regexp"
	"strings"
	"testing"
)

// FuzzMatch compares the matcher with what package regexp makes of the same pattern.
func FuzzMatch(f *testing.F) {
	f.Add("pr view *", "pr\x00view\x0012")
	f.Add(`a\*?c ...`, "a*bc\x00x")
	f.Add("*a*b", "xaxb")
	f.Add("", "")
	f.Add(`\`, `\`)
	f.Fuzz(func(t *testing.T, pattern, joined string) {
		if len(pattern) > 200 || len(joined) > 1000 {
			return
		}
		var args []string
		if joined != "" {
			args = strings.Split(joined, "\x00")
		}
		words := splitPattern(pattern)
		rest := len(words) > 0 && words[len(words)-1] == "..."
		if rest {
			words = words[:len(words)-1]
		}
		want := len(args) == len(words) || rest && len(args) >= len(words)
		for i := 0; want && i < len(words); i++ {
			want = wordRegexp(words[i]).MatchString(latin(args[i]))
		}
		if got := MatchArgs(pattern, args); got != want {
			t.Errorf("MatchArgs(%q, %q) = %v", pattern, args, got)
		}
	})
}

// latin makes each byte a character, as regexp knows characters only.
func latin(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

func wordRegexp(word string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i := 0; i < len(word); i++ {
		c := word[i]
		switch {
		case c == '\\' && i+1 < len(word):
			i++
			b.WriteString(regexp.QuoteMeta(latin(word[i : i+1])))
		case c == '*':
			b.WriteString(".*")
		case c == '?':
			b.WriteString(".")
		default:
			b.WriteString(regexp.QuoteMeta(latin(word[i : i+1])))
		}
	}
	return regexp.MustCompile(b.String() + `\z`)
}
