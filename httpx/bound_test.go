package httpx_test

import "time"

// bound is the limit of every wait.
const bound = 30 * time.Second
