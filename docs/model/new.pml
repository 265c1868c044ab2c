/* Init and Ready, from the top to the bottom: join.go and ready.go. */

/* next. */
inline next(frame) {
	if
	:: down[me] ? frame
	:: noOld(me) && empty(down[me]) -> goto lost
	:: LIMITS -> goto refuse
	:: atomic { doomed -> goto gone }
	fi
}

/* send. These frames are few and small: the link has room. If it is lost, next will say so. */
inline tell(frame) {
	if
	:: atomic { !noOld(me) -> assert(nfull(up[me])); up[me] ! frame }
	:: noOld(me)
	:: atomic { doomed -> goto gone }
	fi
}

/* The application's part comes before it: Init, the warm-up, Load. */
inline workAndTell(frame, then) {
	if
	:: atomic { !noOld(me) -> up[me] ! frame; phase[me] = then }
	:: atomic { noOld(me) -> phase[me] = then }
	:: atomic { FAULTS -> goto refuse }
	:: atomic { doomed -> goto gone }
	fi
}

inline ready(me) {
	if
	:: down[me] ? HELLO
	:: atomic { doomed -> goto gone }
	fi;
	if
	:: down[me] ? SOCKETS
	:: noOld(me) && empty(down[me]) /* the sockets speak for themselves */
	:: LIMITS -> goto refuse
	:: atomic { doomed -> goto gone }
	fi;
	tell(JOIN);
	workAndTell(WANT, loading);
	next(STATE);
	if
	:: down[me] ? STATEEND
	:: noOld(me) && empty(down[me]) -> goto refuse /* ErrTruncated: half a state is none */
	:: LIMITS -> goto refuse
	:: atomic { doomed -> goto gone }
	fi;
	next(CONNS);
	next(DATA);
	next(COMPLETE);
	workAndTell(READY, pledged);
#ifdef HELP_ITSELF
	if
	:: down[me] ? COMMIT
	:: noOld(me) && empty(down[me]) -> goto lost
	:: LIMITS -> goto takeOver
	:: atomic { doomed -> goto gone }
	fi;
#else
	next(COMMIT);
#endif
	if
#ifdef NO_TOKEN
	:: atomic { token[me] = taken; holder = me }
#else
	:: atomic { token[me] == inPipe -> token[me] = taken; holder = me }
	:: token[me] == takenBack -> goto takenFromIt
#endif
	:: atomic { doomed -> goto gone }
	fi;
	tell(ACK);
takeOver:
	if
	:: own(me)
	:: atomic { doomed -> goto gone }
	fi;
	tell(SETTLED);
	goto done;

lost: /* oldDied: the end of the link alone proves nothing */
	if
	:: fate[parent[me]] == dead -> goto takeOver
#ifdef CLOSE_LINK_BEFORE_KILL
	:: goto takeOver
#endif
	:: atomic { doomed -> goto gone }
	fi;

takenFromIt: /* The old one kills this one next, unless it dies before. */
#ifdef GIVE_UP
	goto giveUp;
#else
	if
	:: noOld(me) -> goto lost
	:: LIMITS
	:: atomic { doomed -> goto gone }
	fi;
#endif

refuse:
	excused[me] = true;
giveUp:
	tell(REFUSE);
	if
	:: atomic { phase[me] = closed; upShut[me] = true }
	:: atomic { doomed -> goto gone }
	fi;
	atomic { leave(me); goto dead_ };

done:
	skip
}

/* take, leave and relay of hear.go, for the link of generation i. */
inline hear(i) {
	skip; /* a label cannot be the first thing */
end_hear:
	if
	:: atomic { down[i] ? SIGNAL -> asked[me] = true; goto end_hear }
	:: atomic { down[i] ? RELAY -> relayed = true; goto end_hear }
	:: down[i] ? FORWARD
	:: atomic { phase[me] == draining && !sending[me] ->
		if
		:: noNew(heir[me]) -> upShut[i] = true; goto heard
		:: nfull(down[heir[me]]) && !noNew(heir[me]) -> down[heir[me]] ! RELAY; ear[i] = heir[me]; goto heard
		fi }
	:: noOld(i) && empty(down[i]) -> goto heard
	fi;
end_half:
	if
	:: down[i] ? DATA
	:: noOld(i) && empty(down[i]) -> goto heard
	fi;
	if /* until the outcome of a split is known it waits */
	:: atomic { open[me] -> take(me); goto end_hear }
	:: atomic { phase[me] == draining && !sending[me] -> sending[me] = true }
	fi;
	handOn(FORWARD);
	handOn(DATA);
	atomic { sending[me] = false; goto end_hear };

heard:
	hearing[me] = false
}

/* sendForward. Without a next generation the connection ends. */
inline handOn(frame) {
	if
	:: atomic { nfull(down[heir[me]]) && !noNew(heir[me]) -> down[heir[me]] ! frame }
	:: noNew(heir[me])
	fi
}
