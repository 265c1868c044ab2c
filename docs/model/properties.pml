/* What has to hold. Nothing here but phase and gates has an influence on what is done. */

#define lives(i)   (fate[i] == living || fate[i] == dying)
#define accepts(i) (lives(i) && open[i])
#define reading(i) (lives(i) && reads[i])

/* Never two owners. */
inline openGates(i) {
	open[i] = true;
	assert(count(accepts) == 1)
}

/* The new one takes nothing before the commit, unless it is alone. */
inline own(i) {
	atomic {
		assert(i == FIRST || token[i] == taken || fate[parent[i]] == dead);
		assert(!stale[i]);
		phase[i] = serving; holder = i; acted[i] = true; ear[i] = i;
		openGates(i);
		if
#ifndef QUIET
		:: i == FIRST -> reads[i] = true
		:: i != FIRST -> hearing[i] = true
#endif
		:: else
		fi
	}
}

/* The gates open again when nobody else has anything, and what an owner did is not undone. */
inline thaw(i) {
	if
	:: !open[i] ->
		assert(token[child] != taken || fate[child] == dead);
		assert(!acted[child]);
		holder = i; stale[child] = fate[child] != dead;
		openGates(i)
	:: open[i]
	fi
}

/* A connection is read by one generation. */
inline take(i) {
	assert(count(reading) == 0);
	reads[i] = true
}

/* Who can go on for ever is serving. */
#define atRest(i) (!lives(i) || stuck[i] || phase[i] == serving && open[i])

/* There is no heir, or it has an excuse. */
#define noHeir(i) (i == NONE || fate[i] == unborn || stuck[i] || fate[i] == dead && excused[i])
