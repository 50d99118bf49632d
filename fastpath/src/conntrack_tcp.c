/*
 * TCP connections by the flags of their segments (RFC 9293, sections 3.5 and 3.6). Runs on:
 * workers.
 *
 * Rows: what a segment is and who sent it, the side that began or the other one. Columns: the state
 * of the connection.
 */
#include "conntrack_table.h"

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };
enum { BEGINS, OTHER, SIDES };
enum tcp_class { CLASS_SYN, CLASS_SYN_ACK, CLASS_ACK, CLASS_FIN, CLASS_RST, CLASSES, CLASS_NONE };

enum {
	SS = CONNTRACK_TCP_SYN_SENT,
	SB = CONNTRACK_TCP_SIMULTANEOUS,
	SR = CONNTRACK_TCP_SYN_RECEIVED,
	ES = CONNTRACK_TCP_ESTABLISHED,
	FW = CONNTRACK_TCP_FIN_WAIT,
	CW = CONNTRACK_TCP_CLOSE_WAIT,
	CL = CONNTRACK_TCP_CLOSING,
	CD = CONNTRACK_TCP_CLOSED,
	NN = 0,	  /* a new connection in place of the old one */
	XX = 0xff /* invalid */
};

/*
 * A SYN in the middle of a connection passes from the side that began and changes nothing: its host
 * may have restarted, and the other one's answer (RFC 5961, section 4) is what ends the old
 * connection. For the same reason an ACK may answer a SYN (RFC 9293, figure 10). Behind a RST
 * segments pass for as long as both sides keep sending: who forged it has won nothing.
 */
static const uint8_t next_state[CLASSES][SIDES][CONNTRACK_TCP_STATES] = {
    /*                        none  SS  SB  SR  ES  FW  CW  CL  CD */
    [CLASS_SYN] = {[BEGINS] = {XX, SS, SB, SR, ES, FW, CW, NN, NN},
		   [OTHER] = {XX, SB, SB, XX, XX, XX, XX, NN, NN}},
    [CLASS_SYN_ACK] = {[BEGINS] = {XX, XX, SR, SR, XX, XX, XX, XX, XX},
		       [OTHER] = {XX, SR, SR, SR, ES, FW, XX, XX, CD}},
    [CLASS_ACK] = {[BEGINS] = {XX, XX, XX, ES, ES, FW, CW, CL, CD},
		   [OTHER] = {XX, SS, SB, SR, ES, FW, CW, CL, CD}},
    [CLASS_FIN] = {[BEGINS] = {XX, XX, XX, FW, FW, FW, CL, CL, CD},
		   [OTHER] = {XX, XX, XX, CW, CW, CL, CW, CL, CD}},
    [CLASS_RST] = {[BEGINS] = {XX, CD, CD, CD, CD, CD, CD, CD, CD},
		   [OTHER] = {XX, CD, CD, CD, CD, CD, CD, CD, CD}},
};

/* Combinations that no TCP sends are none. */
static enum tcp_class class_of(uint8_t flags)
{
	switch (flags & (FIN | SYN | RST | ACK)) {
	case SYN:
		return CLASS_SYN;
	case SYN | ACK:
		return CLASS_SYN_ACK;
	case ACK:
		return CLASS_ACK;
	case FIN | ACK:
		return CLASS_FIN;
	case RST:
	case RST | ACK:
		return CLASS_RST;
	default:
		return CLASS_NONE;
	}
}

enum conntrack_step conntrack_tcp_step(const struct conntrack_entry *entry, bool reply,
				       uint8_t flags, bool loose, uint8_t *next)
{
	enum tcp_class class = class_of(flags);
	bool picks_up = loose && class == CLASS_ACK;

	if (class == CLASS_NONE)
		return CONNTRACK_STEP_INVALID;
	if (!entry) {
		*next = picks_up ? ES : SS;
		return class == CLASS_SYN || picks_up ? CONNTRACK_STEP_NEW : CONNTRACK_STEP_INVALID;
	}
	/* whoever gave up before there was an answer has nothing more to say */
	if (entry->tcp == CD && !entry->answered && !reply && class != CLASS_SYN &&
	    class != CLASS_RST)
		return CONNTRACK_STEP_INVALID;
	*next = next_state[class][reply ? OTHER : BEGINS][entry->tcp];
	if (*next == XX)
		return CONNTRACK_STEP_INVALID;
	if (*next != NN)
		return CONNTRACK_STEP_STAYS;
	*next = SS;
	return CONNTRACK_STEP_NEW;
}
