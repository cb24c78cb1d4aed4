module github.com/a1ea6966/loggregator/doppler

go 1.26.0

replace github.com/a1ea6966/loggregator/api => ../api

replace github.com/a1ea6966/loggregator/internal => ../internal

require (
	github.com/a1ea6966/loggregator/api v0.0.0
	github.com/a1ea6966/loggregator/internal v0.0.0
)
