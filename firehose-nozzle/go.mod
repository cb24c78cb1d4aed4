module github.com/a1ea6966/loggregator/firehose-nozzle

go 1.26.0

replace github.com/a1ea6966/loggregator/api => ../api

require github.com/a1ea6966/loggregator/api v0.0.0
