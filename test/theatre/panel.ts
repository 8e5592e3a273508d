/**
 * Tells what the panel says of the selection, and which acts it offers. It computes words and acts
 * only; inspector.ts draws them.
 */
import { type Name } from "../../raft.ts";
import { type Selection } from "./frame.ts";
import { type Act, type Flight, type Instant, keys, type ServerView } from "./state.ts";
import { familyOf, roleOf, titleOf, troubleOf } from "./words.ts";

/** A name of Figure 2 and its value. */
export type Fact = { readonly name: string; readonly value: string };
export type Choice = {
  readonly label: string;
  /** The effect of the button, in a sentence. */
  readonly help: string;
  readonly does: Act | { readonly kind: "select"; readonly selection: Selection };
  readonly isDisabled?: boolean;
  /** A danger to the cluster, or a thing that is on. */
  readonly tone?: "on" | "danger";
};
export type Group = { readonly title: string; readonly choices: readonly Choice[] };
export type Content = {
  readonly title: string;
  readonly subtitle: string;
  /** The term whose colour the title has. */
  readonly term?: number;
  readonly facts: readonly Fact[];
  readonly groups: readonly Group[];
};

const fact = (name: string, value: string | number | undefined): Fact => ({
  name,
  value: value === undefined || value === "" ? "none" : `${value}`,
});
const choice = (
  label: string,
  help: string,
  does: Choice["does"],
  more: Pick<Choice, "isDisabled" | "tone"> = {},
): Choice => ({ label, help, does, ...more });

export function contentOf(instant: Instant, selection: Selection): Content {
  switch (selection.kind) {
    case "server": {
      const server = instant.servers.find(({ name }) => name === selection.name);
      return server ? serverContent(instant, server) : worldContent(instant);
    }
    case "flight": {
      const flight = instant.flights.find(({ id }) => id === selection.id);
      return flight ? flightContent(flight) : goneContent();
    }
    case "link":
      return linkContent(instant, selection.from, selection.to);
    case "entry":
      return entryContent(instant, selection.server, selection.index);
    case "none":
      return worldContent(instant);
    default:
      return selection satisfies never;
  }
}

// ------------------------------------------- A server -------------------------------------------

function serverContent(instant: Instant, server: ServerView): Content {
  const { name, currentTerm } = server;
  const trouble = troubleOf(server);
  return {
    title: name,
    subtitle: trouble && trouble !== "empty disk"
      ? `${roleOf(server)}, ${trouble}`
      : `${roleOf(server)}, term ${currentTerm}`,
    term: currentTerm,
    facts: serverFacts(server),
    groups: [
      { title: "Process and disk", choices: processChoices(server) },
      { title: "Client", choices: clientChoices(name) },
      { title: "Members", choices: memberChoices(server) },
      { title: `Links of ${name}`, choices: linksOf(instant, name) },
    ].filter(({ choices }) => choices.length > 0),
  };
}

function serverFacts(server: ServerView): Fact[] {
  const { role, status, followers, votesGranted, members, values } = server;
  const facts = [
    fact("currentTerm", server.currentTerm),
    fact("votedFor", server.votedFor),
    fact("log[]", server.lastIndex === 0 ? "empty" : `up to index ${server.lastIndex}`),
    fact("durable", server.savedIndex === 0 ? "nothing" : `up to index ${server.savedIndex}`),
    fact("commitIndex", server.commitIndex),
    fact("lastApplied", server.lastApplied),
  ];
  if (server.snapshotIndex > 0) facts.push(fact("lastIncludedIndex", server.snapshotIndex));
  if (status !== "down") facts.push(fact("leader", server.leader));
  if (role === "Candidate" || role === "PreCandidate") {
    facts.push(fact("votes granted", votesGranted.join(" ")));
  }
  if (followers && followers.length > 0) {
    const each = (index: "nextIndex" | "matchIndex") =>
      followers.map((follower) => `${follower.name}:${follower[index]}`).join(" ");
    facts.push(fact("nextIndex[]", each("nextIndex")), fact("matchIndex[]", each("matchIndex")));
  }
  const listed = members.map((one) => (one.votes ? one.name : `${one.name} (learner)`));
  facts.push(fact("members", listed.join(" ")));
  if (values.length > 0) {
    facts.push(fact("state machine", values.map(([key, value]) => `${key}=${value}`).join(" ")));
  }
  return facts;
}

function processChoices({ name, status }: ServerView): Choice[] {
  if (status === "down") {
    return [
      choice("Restart", `Starts ${name} from its disk`, { kind: "restart", server: name }),
      choice("Wipe disk", `Empties the disk of ${name}`, { kind: "wipe", server: name }, {
        tone: "danger",
      }),
    ];
  }
  return [
    choice("Kill", `Ends the process of ${name}; its disk stays`, { kind: "kill", server: name }, {
      tone: "danger",
    }),
    status === "paused"
      ? choice("Resume", `Lets ${name} go on`, { kind: "resume", server: name }, { tone: "on" })
      : choice("Pause", `Stops ${name} for a while, as a long garbage collection does`, {
        kind: "pause",
        server: name,
      }),
    choice("Time out", `Lets the election timer of ${name} run out now`, {
      kind: "elapse",
      server: name,
    }),
    choice("Wipe disk", `Kills ${name} and empties its disk`, { kind: "wipe", server: name }, {
      tone: "danger",
    }),
  ];
}

function clientChoices(name: Name): Choice[] {
  return [
    choice("Write x", `A client asks ${name} to write the next number`, {
      kind: "propose",
      key: "x",
      at: name,
    }),
    choice("Read x", `A client reads at ${name}`, { kind: "read", key: "x", at: name }),
  ];
}

function memberChoices({ name, role, isMember }: ServerView): Choice[] {
  const choices: Choice[] = [];
  if (role !== "Leader" && isMember) {
    choices.push(choice("Make leader", `The leader hands over to ${name}`, {
      kind: "transfer",
      to: name,
    }));
  }
  choices.push(
    isMember
      ? choice("Remove", `The leader removes ${name} from the members`, {
        kind: "removeServer",
        server: name,
      })
      : choice("Add", `The leader adds ${name} to the members`, {
        kind: "addServer",
        server: name,
      }),
  );
  return choices;
}

/** Returns a switch for each direction of each link, and one for all. */
function linksOf(instant: Instant, name: Name): Choice[] {
  const others = instant.servers.map((server) => server.name).filter((other) => other !== name);
  if (others.length === 0) return [];
  return [
    choice(`Isolate ${name}`, `Cuts all links of ${name}`, {
      kind: "partition",
      groups: [[name], others],
    }, { tone: "danger" }),
    ...others.flatMap((other) => [
      linkChoice(instant, name, other),
      linkChoice(instant, other, name),
    ]),
  ];
}

function linkChoice({ cuts }: Instant, from: Name, to: Name): Choice {
  const isCut = cuts.some((link) => link.from === from && link.to === to);
  const label = `${from} → ${to}`;
  return isCut
    ? choice(label, `Heals the link from ${from} to ${to}`, { kind: "heal", from, to }, {
      tone: "on",
    })
    : choice(label, `Cuts the link from ${from} to ${to}`, { kind: "cut", from, to });
}

// ---------------------------------- Links, messages and entries ----------------------------------

function linkContent(instant: Instant, from: Name, to: Name): Content {
  const isCut = (a: Name, b: Name) => instant.cuts.some((link) => link.from === a && link.to === b);
  const stateOf = (a: Name, b: Name) => (isCut(a, b) ? "cut" : "open");
  return {
    title: `${from} – ${to}`,
    subtitle: "the link between two servers",
    facts: [
      fact(`${from} to ${to}`, stateOf(from, to)),
      fact(`${to} to ${from}`, stateOf(to, from)),
    ],
    groups: [{
      title: "One way",
      choices: [linkChoice(instant, from, to), linkChoice(instant, to, from)],
    }],
  };
}

function flightContent(flight: Flight): Content {
  const { id, from, to, term, entries = [], fields, sentMs, arriveMs, lostAtMs } = flight;
  return {
    title: titleOf(flight),
    subtitle: `${from} → ${to}`,
    ...(term === undefined ? {} : { term }),
    facts: [
      ...(term === undefined ? [] : [fact("term", term)]),
      ...fields.filter(([name]) => name !== "term").toSorted(own).map(([name, value]) =>
        fact(name, value)
      ),
      ...entries.slice(0, 6).map((one) =>
        fact(`entry ${one.index}`, `term ${one.term}: ${one.text}`)
      ),
      fact("on its way for", `${(arriveMs - sentMs).toFixed(1)} ms`),
      ...(lostAtMs === undefined ? [] : [fact("fate", "it gets lost")]),
    ],
    groups: [{
      title: "The network",
      choices: [
        choice("Drop", "Loses this message", { kind: "drop", flight: id }, { tone: "danger" }),
        choice("Delay 50 ms", "Lets it arrive later", { kind: "delay", flight: id, ms: 50 }),
        choice("Delay 500 ms", "Lets it arrive much later", { kind: "delay", flight: id, ms: 500 }),
        choice("Duplicate", "Lets it arrive twice", { kind: "duplicate", flight: id }),
      ],
    }],
  };
}

/** Lists fields of raft.ts that Figure 2 lacks after the others. */
const own = ([a]: Flight["fields"][number], [b]: Flight["fields"][number]) =>
  Number(a === "disk" || a === "founding") - Number(b === "disk" || b === "founding");

const goneContent = (): Content => ({
  title: "Delivered",
  subtitle: "this message is not in flight now",
  facts: [],
  groups: [],
});

function entryContent({ servers }: Instant, name: Name, index: number): Content {
  const entryAt = (server: ServerView) => server.entries[index - server.baseIndex - 1];
  const server = servers.find((one) => one.name === name);
  const entry = server && entryAt(server);
  if (!entry) {
    const subtitle = `${name} does not have this entry now`;
    return { title: `Entry ${index}`, subtitle, facts: [], groups: [] };
  }
  const same = servers.filter((one) => entryAt(one)?.term === entry.term || index <= one.baseIndex);
  const other = servers.filter((one) => {
    const there = entryAt(one);
    return there && there.term !== entry.term;
  });
  const namesOf = (list: readonly ServerView[]) => list.map((one) => one.name).join(" ");
  return {
    title: `Entry ${index}`,
    subtitle: `of term ${entry.term}, in the log of ${name}`,
    term: entry.term,
    facts: [
      fact("command", entry.text),
      fact("kind", entry.kind),
      fact("same entry at", namesOf(same)),
      fact("durable at", namesOf(same.filter(({ savedIndex }) => savedIndex >= index))),
      fact("committed at", namesOf(same.filter(({ commitIndex }) => commitIndex >= index))),
      fact("another entry at", namesOf(other)),
    ],
    groups: [],
  };
}

// ------------------------------------------- The world -------------------------------------------

function worldContent(instant: Instant): Content {
  const { servers, cuts, flights } = instant;
  const names = servers.map(({ name }) => name);
  const half = Math.floor((names.length - 1) / 2);
  const [few, many] = [names.slice(0, half), names.slice(half)];
  const splits = half === 0 ? [] : [
    choice(`${few.join(" ")} | ${many.join(" ")}`, "Splits the network in two", {
      kind: "partition",
      groups: [few, many],
    }, { tone: "danger" }),
  ];
  return {
    title: "The cluster",
    subtitle: "Select a server, a link, a message or an entry.",
    facts: [],
    groups: [
      {
        title: "Client",
        choices: keys.slice(0, 2).flatMap((key) => [
          choice(`Write ${key}`, `A client writes the next number to ${key}`, {
            kind: "propose",
            key,
          }),
          choice(`Read ${key}`, `A client reads ${key}`, { kind: "read", key }),
        ]),
      },
      {
        title: "Members",
        choices: [choice("Add a server", "The leader adds one", { kind: "addServer" })],
      },
      {
        title: "Network",
        choices: [
          choice("Heal all links", "All links work again", { kind: "healAll" }, {
            isDisabled: cuts.length === 0,
          }),
          ...splits,
        ],
      },
      {
        title: "In flight",
        choices: flights.filter((one) => familyOf(one) !== "other").slice(0, 12).map(flightChoice),
      },
    ].filter(({ choices }) => choices.length > 0),
  };
}

function flightChoice(flight: Flight): Choice {
  const selection = { kind: "flight", id: flight.id } as const;
  const label = `${flight.from} → ${flight.to} ${titleOf(flight)}`;
  return choice(label, "Selects this message", { kind: "select", selection });
}
