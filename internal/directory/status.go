package directory

import "time"

// NodeStatus is what one gateway tells of itself and of the upstreams it uses.
type NodeStatus struct {
	Node string    `json:"node"`
	At   time.Time `json:"at"`
	// Unshipped is when the oldest record was journalled that the usage store
	// has not confirmed; zero: it has all.
	Unshipped time.Time `json:"unshipped,omitzero"`
	// StoreAway says that the node cannot reach the quota store.
	StoreAway bool             `json:"store_away,omitempty"`
	Upstreams []UpstreamStatus `json:"upstreams"`
}

// UpstreamStatus is what one gateway knows of one upstream of a product.
type UpstreamStatus struct {
	Product   string `json:"product_id"`
	ID        string `json:"upstream_id"`
	Breaker   string `json:"breaker" enum:"closed,half-open,open" doc:"closed: it is given calls; half-open: trial calls decide; open: it is given none while another is well."`
	Available bool   `json:"available" doc:"Whether it is given calls."`
	Healthy   bool   `json:"healthy" doc:"By its active health checks; true where there are none."`
	Ejected   bool   `json:"ejected" doc:"It rests because it failed too large a share of its calls."`
	Resting   bool   `json:"resting" doc:"It asked for a pause by Retry-After."`
	InFlight  int64  `json:"in_flight" doc:"Calls under way."`
	Attempts  int64  `json:"attempts" doc:"Since the gateway began or the product's upstreams changed."`
	Failures  int64  `json:"failures" doc:"Of these: answers from 500 on but 501 and 505, no answer, answers that broke off."`
}
