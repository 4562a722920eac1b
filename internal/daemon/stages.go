package daemon

import (
	"context"
	"errors"
	"fmt"
)

// stage is a part of metald that runs until its context ends.
type stage struct {
	name string
	run  func(context.Context) error
}

// runStages runs all stages at once until ctx ends or one of them returns. Then it ends them in order, each
// when those before it are over, and returns what went wrong. An end that was not asked for is an error.
func runStages(ctx context.Context, stages ...stage) error {
	first := make(chan struct{}, len(stages))
	ends := make([]context.CancelFunc, len(stages))
	results := make([]chan error, len(stages))
	for i, s := range stages {
		stageCtx, end := context.WithCancel(context.WithoutCancel(ctx))
		defer end()
		ends[i], results[i] = end, make(chan error, 1)
		go func() {
			err := s.run(stageCtx)
			if stageCtx.Err() == nil {
				err = errors.Join(errors.New("ended although metald runs"), err)
			} else if errors.Is(err, context.Canceled) {
				err = nil
			}
			results[i] <- err
			first <- struct{}{}
		}()
	}
	select {
	case <-ctx.Done():
	case <-first:
	}
	var errs []error
	for i, s := range stages {
		ends[i]()
		if err := <-results[i]; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}
