module github.com/a1ea6966/loggregator/internal

go 1.26.0

replace github.com/a1ea6966/loggregator/api => ../api

require go.uber.org/goleak v1.3.0
