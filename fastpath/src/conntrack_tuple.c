/* From a frame to the connection it may belong to: conntrack_table.h. Runs on: workers. */
#include "conntrack_table.h"

enum { ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_IPV6 = 0x86dd };

/* What an ICMP or ICMPv6 message is to us. */
struct icmp_role {
	enum { ROLE_OTHER, ROLE_REQUEST, ROLE_REPLY, ROLE_ERROR, ROLE_NEIGHBOR } role;
	uint8_t request; /* type of the request, also of a reply's */
};

/*
 * RFC 792 and RFC 950. Source quench is obsolete (RFC 6633), and a redirect changes routes: neither
 * comes in as related to something.
 */
static struct icmp_role icmp_role4(uint16_t type)
{
	switch (type) {
	case 8:	 /* echo */
	case 13: /* timestamp */
	case 15: /* information */
	case 17: /* address mask */
		return (struct icmp_role){ROLE_REQUEST, (uint8_t)type};
	case 0:
		return (struct icmp_role){ROLE_REPLY, 8};
	case 14:
	case 16:
	case 18:
		return (struct icmp_role){ROLE_REPLY, (uint8_t)(type - 1)};
	case 3:	 /* unreachable */
	case 11: /* time exceeded */
	case 12: /* parameter problem */
		return (struct icmp_role){ROLE_ERROR, 0};
	default:
		return (struct icmp_role){ROLE_OTHER, 0};
	}
}

/* RFC 4443; MLD: RFC 2710, RFC 3810; Neighbor Discovery: RFC 4861. */
static struct icmp_role icmp_role6(uint16_t type)
{
	if (type >= 1 && type <= 4)
		return (struct icmp_role){ROLE_ERROR, 0};
	if (type == 128 || type == 129)
		return (struct icmp_role){type == 128 ? ROLE_REQUEST : ROLE_REPLY, 128};
	if ((type >= 130 && type <= 137) || type == 143)
		return (struct icmp_role){ROLE_NEIGHBOR, 0};
	return (struct icmp_role){ROLE_OTHER, 0};
}

static struct icmp_role icmp_role(const struct flow_key *key)
{
	return key->ip_version == 4 ? icmp_role4(key->l4_src) : icmp_role6(key->l4_src);
}

/* --- tuples -------------------------------------------------------------------------------------
 */

static bool end_smaller(const uint8_t a[16], uint16_t a_port, const uint8_t b[16], uint16_t b_port)
{
	uint64_t a_high = load_be64(a), b_high = load_be64(b);
	uint64_t a_low = load_be64(a + 8), b_low = load_be64(b + 8);

	if (a_high != b_high)
		return a_high < b_high;
	return a_low != b_low ? a_low < b_low : a_port < b_port;
}

/* from: which end the packet's source becomes. */
static void tuple_ends(struct conntrack_view *view, const struct flow_key *key, uint8_t from)
{
	view->from = from;
	memcpy(view->tuple.address[from], key->ip_src, 16);
	memcpy(view->tuple.address[1 - from], key->ip_dst, 16);
	view->tuple.proto = key->ip_proto;
	view->tuple.ip_version = key->ip_version;
}

static void tuple_ports(struct conntrack_view *view, const struct flow_key *key)
{
	uint8_t from = end_smaller(key->ip_dst, key->l4_dst, key->ip_src, key->l4_src);

	tuple_ends(view, key, from);
	view->tuple.port[from] = key->l4_src;
	view->tuple.port[1 - from] = key->l4_dst;
}

/* Requests and replies; the cursor is at the message. */
static bool tuple_icmp(struct conntrack_view *view, const struct flow_key *key,
		       struct cursor *cursor, struct icmp_role role)
{
	const uint8_t *at = cursor_need(cursor, 8);

	if (!at || (role.role != ROLE_REQUEST && role.role != ROLE_REPLY))
		return false;
	view->may_begin = role.role == ROLE_REQUEST;
	tuple_ends(view, key, role.role == ROLE_REPLY);
	view->tuple.port[0] = load_be16(at + 4);
	view->tuple.port[1] = role.request;
	return true;
}

/* The packet that an error is about. It has to have come from where the error goes to. */
static bool tuple_inner(struct conntrack_view *view, const struct flow_key *key,
			struct cursor *cursor)
{
	struct flow_key inner;

	if (!cursor_skip(cursor, 8) || !parse_quoted(cursor, &inner) ||
	    inner.ip_version != key->ip_version || memcmp(inner.ip_src, key->ip_dst, 16) != 0)
		return false;
	if (inner.layers & FLOW_PORTS) {
		tuple_ports(view, &inner);
		return true;
	}
	return (inner.layers & FLOW_L4) && tuple_icmp(view, &inner, cursor, icmp_role(&inner));
}

static enum conntrack_sort view_icmp(const struct flow_key *key, const struct frame *frame,
				     struct conntrack_view *view)
{
	struct icmp_role role = icmp_role(key);
	struct flow_key again;
	struct cursor cursor;
	uint32_t fragment_id;

	if (role.role == ROLE_NEIGHBOR)
		return CONNTRACK_NOT_TRACKED;
	if (role.role == ROLE_OTHER)
		return CONNTRACK_INVALID;
	/* what the key has no room for is read from the frame, which may have changed meanwhile */
	parse_flow_at(frame, &again, &cursor, &fragment_id);
	if (!(again.layers & FLOW_L4) || (again.layers & FLOW_BAD))
		return CONNTRACK_INVALID;
	if (role.role == ROLE_ERROR)
		return tuple_inner(view, key, &cursor) ? CONNTRACK_ABOUT : CONNTRACK_INVALID;
	return tuple_icmp(view, key, &cursor, role) ? CONNTRACK_TRACKED : CONNTRACK_INVALID;
}

/* --- frames -------------------------------------------------------------------------------------
 */

static bool is_tracked(const struct flow_key *key)
{
	return key->ip_proto == CONNTRACK_TCP || key->ip_proto == CONNTRACK_UDP ||
	       key->ip_proto == (key->ip_version == 4 ? CONNTRACK_ICMP : CONNTRACK_ICMPV6);
}

/* A later fragment of IPv6 need not say what its packet is: an extension header may come first. */
static bool may_be_tracked(const struct flow_key *key)
{
	switch (key->ip_proto) {
	case 0:	 /* hop-by-hop options */
	case 43: /* routing */
	case 51: /* AH */
	case 60: /* destination options */
		return key->ip_version == 6;
	default:
		return is_tracked(key);
	}
}

void conntrack_view(const struct flow_key *key, const struct frame *frame, uint16_t bridge,
		    struct conntrack_view *view)
{
	memset(view, 0, sizeof(*view));
	view->tuple.vid = key->vid;
	view->tuple.bridge = bridge;
	if (key->eth_type != ETHERTYPE_IPV4 && key->eth_type != ETHERTYPE_IPV6)
		view->sort = CONNTRACK_NOT_TRACKED;
	else if ((key->layers & FLOW_BAD) || !(key->layers & FLOW_IP))
		view->sort = CONNTRACK_INVALID;
	else if (key->layers & FLOW_LATER)
		view->sort = may_be_tracked(key) ? CONNTRACK_LATER : CONNTRACK_NOT_TRACKED;
	else if (!is_tracked(key))
		view->sort = CONNTRACK_NOT_TRACKED;
	else if (!(key->layers & FLOW_L4))
		view->sort = CONNTRACK_INVALID;
	else if (!(key->layers & FLOW_PORTS))
		view->sort = view_icmp(key, frame, view);
	else {
		tuple_ports(view, key);
		view->may_begin = true;
		view->sort = CONNTRACK_TRACKED;
	}
}
