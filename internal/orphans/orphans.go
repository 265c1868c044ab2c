// Package orphans lets tests wait for processes whose parent has ended, as each
// generation's does. It is for tests only.
package orphans
