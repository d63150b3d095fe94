package wire

import (
	"reflect"
	"testing"
)

var records = []Record{
	{Distro: "debian", Home: "/h", Stile: "/s"},
	{Distro: "d", Home: "/h=x\n", Stile: "/s", Command: "/bin/a b", User: "root", Cd: "/\xff", Args: []string{"-x", "", "=", "a=b"},
		Env: []string{"A=", "B=c=d\n"}, Start: []string{"HOME=/h"}, CwdFallback: true, Login: true, Rusage: true},
}

func TestRecordRoundTrip(t *testing.T) {
	for _, r := range records {
		b, err := r.Append([]byte("xx"))
		if err != nil {
			t.Fatal(err)
		}
		got := Record{Args: []string{"old"}}
		if err := got.Parse(b[2:]); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%+v became %+v, %v", r, got, err)
		}
	}
}

func TestRecordNUL(t *testing.T) {
	for _, r := range []Record{
		{Distro: "a\x00b", Home: "/h", Stile: "/s"},
		{Distro: "d", Home: "/h", Stile: "/s", Args: []string{"\x00"}},
		{Distro: "d", Home: "/h", Stile: "/s", Env: []string{"A=\x00stile=/evil"}},
	} {
		if b, err := r.Append(nil); err != ErrField || b != nil {
			t.Errorf("%+v: %q, %v, want ErrField", r, b, err)
		}
	}
}

func TestRecordParse(t *testing.T) {
	const base = "distro=d\x00home=/h\x00stile=/s\x00"
	for _, tt := range []struct {
		name, in string
		ok       bool
	}{
		{"least", base, true},
		{"unknown key", base + "future=1\x00", true},
		{"unknown value", base + "login=2\x00", true},
		{"empty", "", false},
		{"no stile", "distro=d\x00home=/h\x00", false},
		{"empty home", "distro=d\x00home=\x00stile=/s\x00", false},
		{"no key", base + "=x\x00", false},
		{"no equal sign", base + "x\x00", false},
		{"no end", base + "arg=x", false},
		{"equal sign in the next entry only", base + "x\x00arg=x\x00", false},
		{"a shell script", "#!/bin/sh\nexec true\n", false},
	} {
		var r Record
		if err := r.Parse([]byte(tt.in)); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		} else if tt.ok && (r.Distro != "d" || r.Login) {
			t.Errorf("%s: %+v", tt.name, r)
		}
	}
}
