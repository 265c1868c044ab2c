package mitosis

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/bhuthesh/mitosis/internal/wire"
)

// Options configures a Registry. The zero value is ready for use.
type Options struct {
	// ReadyTimeout is how long a new process may take from its start until it calls
	// Ready. Zero means one minute.
	ReadyTimeout time.Duration

	// FreezeTimeout is how long the application may take in the cut until it has
	// dealt with what it is working on. Zero means five seconds. Everything stands
	// still meanwhile.
	FreezeTimeout time.Duration

	// StateTimeout is how long states and connections may take to travel. Zero
	// means one minute. Everything stands still meanwhile.
	StateTimeout time.Duration

	// CommitTimeout is how long the new process may take to acknowledge the commit,
	// once it has everything. Zero means five seconds.
	CommitTimeout time.Duration

	// PIDFile is the path of a file that holds the process id of the committed
	// generation, in decimal with a newline. It is replaced by rename after the
	// commit, and removed by the last generation's Close. Empty means none.
	PIDFile string

	// SplitSignals are the signals on which Wait splits. Nil means SIGHUP and
	// SIGUSR2, an empty slice none.
	SplitSignals []os.Signal

	// StopSignals are the signals on which Wait returns ErrStopped. Nil means
	// SIGTERM and SIGINT, an empty slice none.
	StopSignals []os.Signal

	// Logger gets a record of every phase. Nil means slog.Default(). What is in a
	// state or on a connection is never logged.
	Logger *slog.Logger

	// Command, if it is not nil, may change the command of the new process before
	// it starts. An error fails the split. What runs in the end has to be the new
	// process itself: a wrapper has to exec it, not to start it as a child.
	Command func(*Command) error

	// ListenConfig opens the sockets of Listen and ListenPacket. Its keep-alive
	// settings hold for accepted connections in every generation.
	ListenConfig net.ListenConfig

	// Dialer opens the connections of Dial.
	Dialer net.Dialer
}

// Command is what Split is about to start.
type Command struct {
	// Path is the program: the path that this process was started by, resolved
	// against the directory and PATH of that time. A symbolic link is not
	// resolved, so one that was changed leads to the new binary.
	Path string
	// Args are the arguments without the program's name: those of Split, or this
	// process's own.
	Args []string
	// Env is the environment as NAME=value strings: this process's as it is now.
	Env []string
	// Dir is the working directory: the one that this process was started in.
	Dir string

	ownVariables []string // ours, which go on top of Env
	greeting     wire.Greeting
}

func (o *Options) setDefaults() error {
	for _, limit := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{
		{"ReadyTimeout", &o.ReadyTimeout, time.Minute},
		{"FreezeTimeout", &o.FreezeTimeout, 5 * time.Second},
		{"StateTimeout", &o.StateTimeout, time.Minute},
		{"CommitTimeout", &o.CommitTimeout, 5 * time.Second},
	} {
		if *limit.value < 0 {
			return fmt.Errorf("negative Options.%s: %v", limit.name, *limit.value)
		}
		if *limit.value == 0 {
			*limit.value = limit.standard
		}
	}
	if o.SplitSignals == nil {
		o.SplitSignals = defaultSplitSignals
	}
	if o.StopSignals == nil {
		o.StopSignals = defaultStopSignals
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.PIDFile != "" {
		path, err := absolutePath(o.PIDFile)
		if err != nil {
			return fmt.Errorf("path of the PID file: %w", err)
		}
		o.PIDFile = path
	}
	return nil
}
