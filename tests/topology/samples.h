// SPDX-License-Identifier: Apache-2.0
// Small topology files that tests and the fuzzer's seeds share.
#pragma once

#include <string>

namespace cardea::topology::samples {

/// Two sockets; under each a switch with two GPUs and two NICs; GPUs of a switch joined by two NVLinks.
inline std::string nccl() {
  std::string text = "<system version=\"1\" name=\"sample\">\n";
  for (int s = 0; s < 2; ++s) {
    const std::string b = std::to_string(s + 1);
    text += "<cpu numaid=\"" + std::to_string(s) + "\" affinity=\"" + (s == 0 ? "0000000f" : "000000f0") +
            "\" arch=\"x86_64\" vendor=\"GenuineIntel\" familyid=\"6\" modelid=\"85\">\n"
            "<pci busid=\"0000:" +
            b + "0:00.0\" class=\"0x060400\" link_speed=\"16 GT/s\" link_width=\"16\">\n";
    for (int g = 1; g <= 2; ++g) {
      text += "<pci busid=\"0000:" + b + std::to_string(g) +
              ":00.0\" class=\"0x030200\" vendor=\"0x10de\" device=\"0x20b0\" link_speed=\"16 GT/s\" link_width=\"16\">"
              "<gpu dev=\"" +
              std::to_string(2 * s + g - 1) + "\" sm=\"80\"><nvlink target=\"0000:" + b + std::to_string(3 - g) +
              ":00.0\" count=\"2\" tclass=\"0x030200\"/></gpu></pci>\n";
    }
    for (int n = 3; n <= 4; ++n) {
      text += "<pci busid=\"0000:" + b + std::to_string(n) +
              ":00.0\" class=\"0x020700\" link_speed=\"16 GT/s\" link_width=\"16\"><nic><net name=\"mlx5_" +
              std::to_string(2 * s + n - 3) + "\" dev=\"0\" speed=\"200000\" port=\"1\"/></nic></pci>\n";
    }
    text += "</pci></cpu>\n";
  }
  return text + "</system>\n";
}

/// hwloc 1.x: NUMA nodes hold sockets, no version attribute; a GPU on node 0 behind a root port, a NIC on node 1.
inline std::string hwloc1() {
  return R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc.dtd">
<topology>
 <object type="Machine" os_level="-1" os_index="0" cpuset="0x0000000f" allowed_cpuset="0x0000000f" nodeset="0x3">
  <info name="HostName" value="old"/>
  <object type="NUMANode" os_level="-1" os_index="0" cpuset="0x00000003" local_memory="1073741824">
   <object type="Socket" os_level="-1" os_index="0" cpuset="0x00000003">
    <object type="Core" os_index="0" cpuset="0x00000001"><object type="PU" os_index="0" cpuset="0x00000001"/></object>
    <object type="Core" os_index="1" cpuset="0x00000002"><object type="PU" os_index="1" cpuset="0x00000002"/></object>
   </object>
   <object type="Bridge" os_index="0" bridge_type="0-1" depth="0" bridge_pci="0000:[00-1f]">
    <object type="Bridge" os_index="16" bridge_type="1-1" depth="1" bridge_pci="0000:[01-01]" pci_busid="0000:00:01.0" pci_type="0604 [8086:3c02] [0000:0000] 07" pci_link_speed="15.753846">
     <object type="PCIDev" os_index="4096" pci_busid="0000:01:00.0" pci_type="0302 [10de:1db4] [10de:1214] a1" pci_link_speed="15.753846"/>
    </object>
   </object>
  </object>
  <object type="NUMANode" os_level="-1" os_index="1" cpuset="0x0000000c" local_memory="1073741824">
   <object type="Socket" os_level="-1" os_index="1" cpuset="0x0000000c">
    <object type="Core" os_index="2" cpuset="0x00000004"><object type="PU" os_index="2" cpuset="0x00000004"/></object>
    <object type="Core" os_index="3" cpuset="0x00000008"><object type="PU" os_index="3" cpuset="0x00000008"/></object>
   </object>
   <object type="Bridge" os_index="1" bridge_type="0-1" depth="0" bridge_pci="0000:[80-8f]">
    <object type="Bridge" os_index="17" bridge_type="1-1" depth="1" bridge_pci="0000:[81-81]" pci_busid="0000:80:01.0" pci_type="0604 [8086:3c02] [0000:0000] 07" pci_link_speed="15.753846">
     <object type="PCIDev" os_index="4097" pci_busid="0000:81:00.0" pci_type="0207 [15b3:1017] [15b3:0001] 00" pci_link_speed="15.753846">
      <object type="OSDev" name="mlx5_0" osdev_type="3"/>
     </object>
    </object>
   </object>
  </object>
 </object>
</topology>
)";
}

/// hwloc 2.x: a virtual machine with one NUMA node, two GPUs and a NIC right on the host bridge.
inline std::string hwloc2_hidden() {
  return R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
 <object type="Machine" os_index="0" cpuset="0x0000000f" allowed_cpuset="0x0000000f" gp_index="1">
  <object type="Package" os_index="0" cpuset="0x0000000f" gp_index="2">
   <object type="NUMANode" os_index="0" cpuset="0x0000000f" gp_index="3" local_memory="1073741824"/>
   <object type="Core" os_index="0" cpuset="0x00000003" gp_index="4"/>
   <object type="Core" os_index="1" cpuset="0x0000000c" gp_index="5"/>
  </object>
  <object type="Bridge" gp_index="6" bridge_type="0-1" depth="0" bridge_pci="0000:[00-00]">
   <object type="PCIDev" gp_index="7" pci_busid="0000:11:00.0" pci_type="0302 [10de:20b0] [10de:18bf] a1" pci_link_speed="31.507692">
    <object type="OSDev" gp_index="10" name="nvml0" osdev_type="1"><info name="NVIDIAUUID" value="GPU-aaaa1111"/></object>
   </object>
   <object type="PCIDev" gp_index="8" pci_busid="0000:12:00.0" pci_type="0302 [10de:20b0] [10de:18bf] a1" pci_link_speed="31.507692">
    <object type="OSDev" gp_index="11" name="nvml1" osdev_type="1"><info name="NVIDIAUUID" value="GPU-bbbb2222"/></object>
   </object>
   <object type="PCIDev" gp_index="9" pci_busid="0000:13:00.0" pci_type="0207 [15b3:101b] [15b3:0001] 00" pci_link_speed="31.507692">
    <object type="OSDev" gp_index="12" name="mlx5_9" osdev_type="3"/>
   </object>
  </object>
 </object>
 <distances2 type="OSDev" nbobjs="2" kind="9" name="NVLinkBandwidth" indexing="gp">
  <indexes length="6">10 11 </indexes>
  <u64values length="30">1000000 50000 50000 1000000 </u64values>
 </distances2>
</topology>
)";
}

}  // namespace cardea::topology::samples
