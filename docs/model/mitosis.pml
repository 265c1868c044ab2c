/*
 * The hand-over between generations, as fork.go, join.go, ready.go and forward.go do it.
 * README.md says what is here, what is not, and how to run it.
 *
 * The names of phases and frames are the code's; model_test.go compares them.
 */
mtype:phase = { warming, loading, pledged, serving, waiting, frozen, committing, draining, closed }

mtype:frame = {
	HELLO, SOCKETS, JOIN, WANT, STATE, STATEEND, CONNS, DATA, COMPLETE, READY, COMMIT, ACK,
	FORWARD, REFUSE, SETTLED, SIGNAL, RELAY
}

#include "system.pml"
#include "properties.pml"
#include "old.pml"
#include "new.pml"

/* A generation is the new one first, and the old one in each split that it begins. */
active [GENERATIONS] proctype Generation() {
	byte me = _pid;
	byte child = NONE; /* heir[me] */
end_unborn:
	lives(me);
	if
	:: me == FIRST -> own(me)
	:: me != FIRST -> ready(me)
	fi;

end_serving:
	if
	:: atomic { born < GENERATIONS -> goto begin }
	:: atomic { doomed -> goto gone }
	fi;
begin:
	split(me);
	goto end_serving;

gone:
	atomic {
		if
		:: die(me)
		:: LIMITS && armed && fate[me] == living -> stuck[me] = true
		fi
	};
dead_:
	skip
}

/* hear.go: it goes on beside everything that the generation does later. */
active [GENERATIONS - 1] proctype Hear() provided (over || !ended(_pid - GENERATIONS + 1)) {
	byte me = _pid - GENERATIONS + 1;
	{
		skip;
end_notYet:
		hearing[me];
		hear(me)
	} unless { over && ended(me) }
}

#if GENERATIONS == 3
/* What the last generation does with the link that the one before has got from the first. */
active proctype HearRelayed() provided (over || !ended(2)) {
	byte me = 2;
	{
		skip;
end_notYet:
		relayed;
		hear(1)
	} unless { over && ended(2) }
}
#endif

active proctype Environment() {
	atomic {
		if
		:: world = calm
#ifndef CALM
		:: world = mortal
#ifndef MORTAL
		:: world = hostile
#endif
#endif
		fi;
		fate[FIRST] = living
	};
	armed = false
}

/*
 * Every run ends (README.md says how that is shown), so what has to come about
 * some time has come about at the end. This is the end: nobody else can do anything.
 */
active proctype Judge() {
	timeout;
	atomic {
		assert(all(atRest));
		assert(stuck[holder] || fate[holder] == dead || open[holder]);
		assert(fate[holder] != dead || noHeir(heir[holder]));
		assert(world != calm || holder == GENERATIONS - 1);
#ifndef QUIET
		assert(world != calm || reading(GENERATIONS - 1));
#endif
		over = true
	}
}
