/*
 * What the operating system does: processes, the control link, the pipe of the token.
 * Generations are counted from 0 here. What belongs to a split is kept under the
 * number of the new generation.
 */
#ifndef GENERATIONS
#define GENERATIONS 2
#endif
#if GENERATIONS == 3
#define all(p) (p(0) && p(1) && p(2))
#define count(p) (p(0) + p(1) + p(2))
#else
#define all(p) (p(0) && p(1))
#define count(p) (p(0) + p(1))
#endif
#define FIRST       0
#define NONE        GENERATIONS

/* One of the worlds is chosen at the start, so that one search looks at all. */
mtype:world = {
	calm,   /* nothing fails and no limit runs out: every split has to succeed */
	mortal, /* processes are killed, refuse and fail, but no limit runs out */
	hostile /* they are stopped, too, and every limit runs out at any time */
}
mtype:world world;
#define FAULTS (world != calm)
#define LIMITS (world == hostile)

mtype:fate = {
	unborn, living,
	dying, /* SIGKILL is on its way: until it arrives anything may happen */
	dead
}
mtype:fate fate[GENERATIONS] = unborn;
byte born = 1;                   /* how many generations have been started */
byte parent[GENERATIONS] = NONE;
byte heir[GENERATIONS] = NONE;   /* the last generation that it has started */
bool stuck[GENERATIONS];         /* stopped for ever: it does nothing, and what it had open stays open */
#define ended(i) (fate[i] == dead || stuck[i])

/* The search is at an end: what is dead may leave Spin's table of processes. */
bool over;
#define runs(i) (!ended(i) || over)

/*
 * The control link is two streams. What is in flight can be read after the death of
 * its sender; then comes the end.
 */
chan down[GENERATIONS] = [2] of { mtype:frame }; /* old to new */
chan up[GENERATIONS]   = [3] of { mtype:frame }; /* new to old */
bool downShut[GENERATIONS];                      /* the old one has closed its end */
bool upShut[GENERATIONS];                        /* the new one has closed its end */
#define noOld(i) (fate[parent[i]] == dead || downShut[i])
byte ear[GENERATIONS];                           /* who has the new one's end: RELAY gives it on */
#define noNew(i) (fate[ear[i]] == dead || ear[i] == i && upShut[i])

/* The token is one byte in a pipe: both sides may read it, and one of them gets it. */
mtype:token = { none, inPipe, takenBack, taken }
mtype:token token[GENERATIONS] = none;

mtype:phase phase[GENERATIONS] = warming;
bool open[GENERATIONS];    /* the gates: it accepts, and reads connections */
bool acted[GENERATIONS];   /* the gates have been open */
bool stale[GENERATIONS];   /* the old one has gone on, so what has arrived here is out of date */
bool excused[GENERATIONS]; /* it was killed, or ended through a failure or a limit of its own */
byte holder = FIRST;       /* who has to serve */
bool reads[GENERATIONS];   /* the accepted connection that is handed on with FORWARD */


/* Why a split fails. */
mtype:event = { REFUSED, LOST, LATE, FAILED }
mtype:event event[GENERATIONS];
bool asked[GENERATIONS];   /* a SIGNAL has come */
bool sending[GENERATIONS]; /* frames that belong together: Link.Send */
bool relayed;              /* the last generation has the link to the first */
bool hearing[GENERATIONS]; /* it takes what an older one sends while that drains */

inline drop(stream) {
	do
	:: stream ? _
	:: empty(stream) -> break
	od
}

/* With a process goes what it had, and what it has not read. What nobody can see any more is made equal. */
inline leave(i) {
	fate[i] = dead; phase[i] = closed;
	open[i] = false; reads[i] = false; asked[i] = false; hearing[i] = false; sending[i] = false;
	event[i] = 0; upShut[i] = true;
	if
	:: ear[i] == i -> drop(down[i])
	:: else
	fi;
#if GENERATIONS == 3
	if
	:: i == 2 && ear[1] == 2 -> drop(down[1])
	:: else
	fi;
#endif
	if
	:: heir[i] != NONE -> drop(up[heir[i]]); downShut[heir[i]] = true
	:: else
	fi
}

inline die(i) {
	excused[i] = true;
	leave(i)
}

/*
 * At every step a process may be killed, from outside or because its parent has sent
 * SIGKILL, or stopped for ever. A stop that ends is a delay, and every step may be delayed.
 */
bool armed = true; /* until then */
#define doomed (fate[me] == dying || armed && FAULTS)
