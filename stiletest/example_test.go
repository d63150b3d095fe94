package stiletest_test

import (
	"testing"

	"github.com/stilehq/stile/stiletest"
)

// A suite in testdata/, of which each script has a distro of its own:
//
//	# testdata/hello.txtar
//	[!guest] skip 'there is no distro'
//	guest sh -c 'echo hello >/etc/hello'
//	guest cat /etc/hello
//	stdout '^hello$'
//	! guest cat /nowhere
//	stderr 'No such file'
func Example() {
	_ = func(t *testing.T) { // func TestScripts(t *testing.T)
		stiletest.Run(t, stiletest.Params{Dir: "testdata", Clone: true})
	}
}
