//go:build !amd64

package kvm

import (
	"context"
	"errors"
	"os"
	"runtime"

	"github.com/stilehq/stile/vmm"
)

var _ vmm.Engine = (*Engine)(nil)

var errArch = errors.New("the kvm engine is not there for " + runtime.GOARCH + " yet")

// Start returns an error.
func (*Engine) Start(context.Context, *vmm.Config) (vmm.Machine, error) { return nil, errArch }

// OnTCG is false.
func OnTCG() bool { return false }

func probe(*os.File) Result { return Result{Unsuitable, errArch.Error(), ""} }
