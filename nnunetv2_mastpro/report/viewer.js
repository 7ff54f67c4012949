"use strict";
(() => {
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const canvas = document.getElementById("viewer-canvas");
  const chooser = document.getElementById("viewer-case");
  const windows = document.getElementById("viewer-window");
  const turn = document.getElementById("viewer-turn");
  const status = document.getElementById("viewer-status");
  const layouts = [...document.querySelectorAll("#viewer-layout button")];
  const opacities = [...document.querySelectorAll("[data-opacity]")];
  const axes = [...document.querySelectorAll("[data-axis]")];
  const overlays = ["truth", "prediction"].filter((kind) => data.cases.some((entry) => entry[kind]));
  let viewer;
  let wanted = 0; // the newest choice wins where two cases are being read

  function option(list, text) {
    list.append(new Option(text));
  }

  function colors(kind) {
    const [R, G, B] = [0, 1, 2].map((channel) => data.colors[kind].map((color) => color[channel]));
    const A = data.values.map((value) => (value === 0 ? 0 : 255));
    return { R, G, B, A, I: [...data.values], labels: [...data.labels] };
  }

  async function show(index) {
    const turnOf = ++wanted;
    const entry = data.cases[index];
    status.textContent = `Reading ${entry.name} ...`;
    try {
      const volumes = await read(entry);
      if (turnOf === wanted) put(entry, volumes);
    } catch (error) {
      if (turnOf === wanted) fail(entry, error);
    }
  }

  async function read(entry) {
    const volumes = [];
    for (const kind of ["image", ...overlays]) {
      const name = `${entry.name}_${kind}.nii.gz`;
      const volume = await niivue.NVImage.loadFromBase64({ base64: entry[kind], name, colormap: "gray" });
      if (kind !== "image") volume.setColormapLabel(colors(kind));
      volumes.push(volume);
    }
    return volumes;
  }

  function put(entry, volumes) {
    removeAll();
    volumes.forEach((volume) => viewer.addVolume(volume));
    setWindow();
    setOpacities();
    viewer.scene.crosshairPos = entry.focus;
    readSlices();
    viewer.updateGLVolume();
    canvas.setAttribute("aria-label", `Slices and 3D picture of ${entry.name}`);
    status.textContent = `${entry.name} is shown.`;
  }

  function fail(entry, error) {
    removeAll(); // another case under this one's name would mislead
    axes.forEach((slider) => slider.removeAttribute("aria-valuetext"));
    viewer.drawScene();
    canvas.setAttribute("aria-label", "No case is shown");
    status.textContent = `${entry.name} cannot be shown (${error.message}); choose it again, or another case.`;
  }

  function removeAll() {
    while (viewer.volumes.length) viewer.removeVolume(viewer.volumes[0]);
  }

  function setWindow() {
    if (!viewer.volumes.length) return; // none is read yet; the case gets its window then
    const own = data.cases[chooser.selectedIndex].window;
    const [low, high] = windows.selectedIndex > 0 ? data.windows[windows.selectedIndex].range : own;
    viewer.volumes[0].cal_min = low;
    viewer.volumes[0].cal_max = high;
    viewer.updateGLVolume();
  }

  function setOpacities() {
    for (const slider of opacities) {
      const place = overlays.indexOf(slider.dataset.opacity) + 1;
      if (place && place < viewer.volumes.length) viewer.setOpacity(place, Number(slider.value));
    }
  }

  function readSlices() {
    for (const slider of axes) {
      const place = viewer.scene.crosshairPos[slider.dataset.axis];
      if (document.activeElement !== slider) slider.value = place;
      if (!viewer.volumes.length) continue;
      const slices = viewer.volumes[0].dimsRAS[Number(slider.dataset.axis) + 1];
      const number = Math.min(slices, Math.floor(place * slices) + 1);
      slider.setAttribute("aria-valuetext", `slice ${number} of ${slices}`);
    }
  }

  function setSlice(slider) {
    const place = [...viewer.scene.crosshairPos];
    place[slider.dataset.axis] = Number(slider.value);
    viewer.scene.crosshairPos = place;
    readSlices();
    viewer.drawScene();
  }

  function setLayout(button) {
    viewer.setSliceType(Number(button.dataset.layout));
    for (const other of layouts) other.setAttribute("aria-pressed", String(other === button));
  }

  function listen() {
    chooser.addEventListener("change", () => show(chooser.selectedIndex));
    windows.addEventListener("change", setWindow);
    turn.addEventListener("input", () => viewer.setRenderAzimuthElevation(Number(turn.value), 10));
    layouts.forEach((button) => button.addEventListener("click", () => setLayout(button)));
    opacities.forEach((slider) => slider.addEventListener("input", setOpacities));
    axes.forEach((slider) => slider.addEventListener("input", () => setSlice(slider)));
  }

  async function start() {
    if (!document.createElement("canvas").getContext("webgl2")) {
      status.textContent = "The viewer needs WebGL 2, which this browser does not offer.";
      return;
    }
    data.cases.forEach((entry) => option(chooser, entry.name));
    (data.windows.length ? data.windows.map((entry) => entry.title) : ["percentiles"]).forEach((title) =>
      option(windows, title),
    );
    opacities.forEach((slider) => {
      slider.parentElement.hidden = !overlays.includes(slider.dataset.opacity);
    });
    viewer = new niivue.Niivue({
      logLevel: "error",
      loadingText: "", // the status line tells
      dragAndDropEnabled: false,
      isRadiologicalConvention: true,
      crosshairColor: [1, 1, 1, 0.7],
      crosshairWidth: 0.3,
      crosshairWidthUnit: "percent",
      onLocationChange: readSlices,
    });
    await viewer.attachToCanvas(canvas);
    viewer.setRenderAzimuthElevation(Number(turn.value), 10);
    listen();
    await show(0);
  }

  start().catch((error) => {
    status.textContent = `The viewer cannot start (${error.message}).`;
  });
})();
