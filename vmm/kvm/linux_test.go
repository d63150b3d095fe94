package kvm

import (
	"testing"

	"github.com/stilehq/stile/vmm"
)

func TestBoot(t *testing.T) {
	needKVM(t)
	leaksNothing(t)
	g := startLinux(t, vmm.Config{Cmdline: []string{"loglevel=8"}}, "report")
	if err := g.wait(); err != nil {
		t.Error(err)
	}
	t.Log(g.output())
	t.Logf("%+v", g.Stats())
}
