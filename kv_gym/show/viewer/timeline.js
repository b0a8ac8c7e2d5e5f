// The first two measures of a step, up and down, and disagreements (on top), above the slider. A click jumps.

const [UP, DOWN] = PAGE.measures;
const THUMB = 16; // pixels; the slider's thumb stops half of it short of both ends

class Timeline {
  constructor(episode, name, stops, scale, onJump) {
    this.episode = episode;
    this.stops = stops;
    this.odd = episode.oddSteps();
    this.scale = scale; // largest spikes of all episodes, so that heights compare
    this.canvas = make("canvas", { role: "img", "aria-label": this.describe(name) });
    this.canvas.addEventListener("click", (event) => onJump(this.stopAt(event.offsetX)));
    this.element = make("div", { class: "timeline" }, make("span", { class: "who", text: name }), this.canvas);
  }

  describe(name) {
    const steps = this.episode.data.steps;
    const spikes = steps.flatMap((step, i) => (step[UP.name] > 0 ? [`step ${i + 1}: ${short(step[UP.name])}`] : []));
    return `${name}: ${steps.length} steps; ${UP.title}s ${spikes.length ? spikes.slice(0, 20).join(", ") : "none"}`;
  }

  x(stop, width) {
    return THUMB / 2 + (width - THUMB) * (this.stops.length > 1 ? stop / (this.stops.length - 1) : 0);
  }

  stopAt(offset) {
    const share = (offset - THUMB / 2) / (this.canvas.clientWidth - THUMB);
    return Math.max(0, Math.min(this.stops.length - 1, Math.round(share * (this.stops.length - 1))));
  }

  update(current) {
    const { context, width, height } = fitted(this.canvas);
    const middle = Math.round(height * 0.66);
    const bar = Math.max(2, Math.min(12, ((width - THUMB) / this.stops.length) * 0.6));
    context.fillStyle = colour("--line");
    const last = this.stops.indexOf(this.episode.states.at(-1).read);
    context.fillRect(this.x(0, width), middle, this.x(last, width) - this.x(0, width), 1);
    context.fillStyle = colour("--accent");
    context.globalAlpha = 0.5;
    context.fillRect(this.x(current, width) - 1, 0, 2, height);
    context.globalAlpha = 1;
    this.episode.states.forEach(({ read, step }) => {
      if (!step) return;
      const left = this.x(this.stops.indexOf(read), width) - bar / 2;
      const up = this.height(step[UP.name], this.scale.up, middle - 11); // below the triangle
      const down = this.height(step[DOWN.name], this.scale.down, height - middle - 1);
      context.fillStyle = colour("--loss");
      context.fillRect(left, middle - up, bar, up);
      context.fillStyle = colour("--attention");
      context.fillRect(left, middle + 1, bar, down);
      if (this.odd.has(step)) this.drawOdd(context, left + bar / 2);
    });
    this.drawEnd(context, this.x(last, width), middle);
  }

  height(value, largest, room) {
    return value > 0 ? Math.max(2, (value / largest) * (room - 1)) : 0;
  }

  drawOdd(context, x) {
    context.fillStyle = colour("--mark");
    context.beginPath();
    context.moveTo(x - 5, 2);
    context.lineTo(x + 5, 2);
    context.lineTo(x, 10);
    context.fill();
  }

  drawEnd(context, x, middle) {
    context.fillStyle = colour(this.episode.data.correct === 1 ? "--right" : "--wrong");
    context.beginPath();
    context.arc(x, middle, 4, 0, 2 * Math.PI);
    context.fill();
  }
}

/** Largest spikes over all episodes. */
function spikeScale(episodes) {
  const steps = episodes.flatMap((episode) => episode.data.steps);
  const largest = (name) => steps.reduce((most, step) => Math.max(most, step[name] ?? 0), 0) || 1;
  return { up: largest(UP.name), down: largest(DOWN.name) };
}
