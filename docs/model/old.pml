/* Split, from the top to the bottom: fork.go. */

/* send; before it freeze, Save or the making of a pipe may fail. */
inline send(frame) {
	if
	:: atomic { !noNew(child) && nfull(down[child]) -> down[child] ! frame }
	:: atomic { noNew(child) && up[child] ?? [REFUSE] -> event[me] = REFUSED; goto fail }
	:: atomic { noNew(child) && !(up[child] ?? [REFUSE]) -> event[me] = LOST; goto fail }
	:: atomic { LIMITS || FAULTS && nfull(down[child]) -> event[me] = FAILED; goto fail }
	:: atomic { doomed -> goto gone }
	fi
}

/* await, expect and lastWords. What a process that is gone has sent still counts. */
inline await(frame) {
	if
	:: up[child] ? frame
	:: atomic { up[child] ? REFUSE -> event[me] = REFUSED; goto fail }
	:: atomic { noNew(child) && empty(up[child]) -> event[me] = LOST; goto fail }
	:: atomic { LIMITS -> event[me] = LATE; goto fail }
	:: atomic { doomed -> goto gone }
	fi
}

/* SIGKILL. What is stopped does nothing more; what runs may go on until it arrives. */
inline kill() {
	atomic { (event[me] != REFUSED && event[me] != LOST || LIMITS) && fate[child] == living ->
		excused[child] = true;
		if
		:: stuck[child] -> die(child)
		:: else -> fate[child] = dying
		fi }
}

/* Listener.forward. On an error the connection stays with the caller. */
inline forward(me) {
	atomic { reads[me] && !sending[me] && !noNew(child) && nfull(down[child]) ->
		down[child] ! FORWARD; sending[me] = true; reads[me] = false };
	if
	:: atomic { !noNew(child) && nfull(down[child]) -> down[child] ! DATA; sending[me] = false }
	:: atomic { noNew(child) -> take(me); sending[me] = false }
	:: atomic { stuck[ear[child]] && full(down[child]) -> goto gone } /* Close's limit; then the process ends */
	:: atomic { doomed -> goto gone }
	fi
}

/* passOn of wait.go. */
inline passOn(me) {
	atomic { asked[me] && !sending[me] && !noNew(child) && nfull(down[child]) ->
		down[child] ! SIGNAL; asked[me] = false }
}

inline split(me) {
	atomic {
		asked[me] = false;
		child = born; born++; heir[me] = child;
		parent[child] = me; ear[child] = child;
		phase[me] = waiting;
		down[child] ! HELLO
	};
	if
	:: fate[child] = living
	:: atomic { FAULTS -> die(child); event[me] = FAILED; goto fail }
	:: atomic { doomed -> goto gone }
	fi;
	send(SOCKETS);
	await(JOIN);
	await(WANT);
	atomic { phase[me] = frozen; open[me] = false };
	send(STATE);
	send(STATEEND);
	send(CONNS);
	send(DATA);
	send(COMPLETE);
	await(READY);
	atomic { phase[me] = committing; token[child] = inPipe };
	send(COMMIT);
#ifndef NO_ACK
	await(ACK);
#endif
	goto supersede;

fail:
	if
#ifdef NO_TOKEN
	:: goto abort
#endif
	:: atomic { phase[me] != committing -> goto abort }
	:: atomic { phase[me] == committing && token[child] == inPipe -> token[child] = takenBack; goto abort }
	:: atomic { phase[me] == committing && token[child] == taken }
	:: atomic { doomed -> goto gone }
	fi;
	/* The new one has the token, and acknowledges before it does anything else. */
	if
	:: atomic { up[child] ? ACK -> goto supersede }
	:: atomic { noNew(child) && empty(up[child]) -> event[me] = LOST; goto abort }
#ifdef SLOW_ACK
	:: atomic { LIMITS -> goto abort }
#else
	/* It does not: so it is stopped, and dies without having done anything. See README.md. */
	:: atomic { stuck[child] && empty(up[child]) -> die(child); goto abort }
#endif
	:: atomic { doomed -> goto gone }
	fi;

abort:
	/* One that has refused takes nothing any more: the application goes on at once. */
	atomic {
#ifdef CLOSE_LINK_BEFORE_KILL
		downShut[child] = true;
#endif
		if
#ifdef THAW_BEFORE_KILL
		:: event[me] != REFUSED -> thaw(me)
#endif
		:: event[me] == REFUSED -> thaw(me)
		:: else
		fi
	};
	/* One that has refused, or closed the link, is given time to end by itself. */
	do
	:: kill()
	:: atomic { fate[child] == dead ->
		downShut[child] = true; drop(up[child]);
		thaw(me);
		phase[me] = serving; event[me] = 0; token[child] = none;
		goto failed }
	:: atomic { doomed -> goto gone }
	od;

supersede:
	atomic {
		phase[me] = draining; event[me] = 0;
#ifndef QUIET
		asked[me] = asked[me] || me == FIRST /* a signal comes too late for it */
#endif
	};
	if
	:: up[child] ? SETTLED
	:: noNew(child) && empty(up[child])
	:: LIMITS
	:: atomic { doomed -> goto gone }
	fi;
drain:
	do
	:: passOn(me)
	:: forward(me)
	:: atomic { (LIMITS || !hearing[me]) && (FAULTS || !reads[me]) -> phase[me] = closed; downShut[child] = true; die(me); goto dead_ }
	:: atomic { doomed -> goto gone }
	od;

failed:
	skip
}
