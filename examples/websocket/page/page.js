"use strict";

const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/ws" + location.search);
const state = document.getElementById("state");
const text = document.getElementById("text");
let last = 0; // the number of the last message
let count = 0;

socket.onopen = () => { state.value = "connected"; };
socket.onclose = (event) => { state.value = `closed: ${event.code} ${event.reason}`; };
socket.onmessage = (event) => {
	const number = parseInt(event.data, 10);
	const gap = last !== 0 && number !== last + 1;
	last = number;
	state.value = `connected, ${++count} messages`;
	const item = document.createElement("li");
	item.textContent = (gap ? "(something is missing) " : "") + event.data;
	document.getElementById("messages").prepend(item);
};
document.getElementById("form").onsubmit = (event) => {
	event.preventDefault();
	if (text.value !== "") socket.send(text.value);
	text.value = "";
};
