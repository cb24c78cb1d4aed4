// Package nozzle reads the Firehose, or the tail of one source, from a Traffic
// Controller.
//
// Open joins a subscription: all readers that name the same one share its
// stream, each envelope goes to one of them, and what a reader has not acked
// when it dies goes to another. Tail follows one source. Both return a Stream,
// which connects, reconnects and resumes by itself; Recv returns batches in
// order, Ack says that a batch is where it has to be.
//
//	s, err := nozzle.Open(ctx, nozzle.Config{Addr: "ws://localhost:8081", Subscription: "my-nozzle"})
//	if err != nil {
//		return err
//	}
//	defer s.Close()
//	for {
//		b, err := s.Recv(ctx)
//		if err != nil {
//			return err
//		}
//		for id, env := range b.All() {
//			store(id, env)
//		}
//		b.Ack()
//	}
//
// Delivery is at least once: nothing that was not acked is skipped, what may
// come a second time is marked (Batch.Redelivered), and every envelope has an
// identity for ever (ID). What a reader will never get is told in the stream,
// counted (Batch.Gaps).
//
// Nothing in a stream grows with the speed of the Firehose: when Recv is not
// called, the stream stops reading, and the Dopplers keep what is new in their
// rings.
//
// Package nozzletest has a Firehose to test nozzles with.
package nozzle
